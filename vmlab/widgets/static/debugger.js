// The debugger's view: code, registers, stack, memory at an instant of a recording, and the commands, forwards and back.
//
// It holds no truth: each button is a command to the kernel, which answers with a new scene. State comes through a plain
// core model, the feed (trait scene), as for the stage: see stage.js.

const STORES = new WeakMap();

const GLYPHS = {
  back_cont: ["M13 3L8 8l5 5zM8 3L3 8l5 5z", "Back to the last breakpoint", "C"],
  back_finish: ["M8 13V4M4 7.5L8 3l4 4.5", "Back to the call of this function", "F"],
  back_over: ["M12.5 9.5A5 5 0 0 0 3.5 8M3 4.5v4h4", "Back over a call", "N"],
  back: ["M11 3L5 8l6 5z", "Step back", "←"],
  step: ["M5 3l6 5-6 5z", "Step", "→"],
  over: ["M3.5 9.5A5 5 0 0 1 12.5 8M13 4.5v4H9", "Step over a call", "n"],
  finish: ["M8 3v9M4 8.5L8 13l4-4.5", "Run until this function returns", "f"],
  cont: ["M3 3l5 5-5 5zM8 3l5 5-5 5z", "Continue to the next breakpoint", "c"],
};
const OUTLINED = new Set(["back_finish", "back_over", "over", "finish"]);
const KEYS = {
  ArrowRight: "step", ArrowLeft: "back", n: "over", N: "back_over", f: "finish", F: "back_finish", c: "cont", C: "back_cont",
};
const KINDS = {
  address: ["at address", "main, or 0x100020"],
  condition: ["when", "ebx == 5"],
  write: ["on write to", "counter, or esp + 4"],
  event: ["on event", "trap vector=14"],
};

function storeOf(feed) {
  if (!STORES.has(feed)) {
    const store = { feed, views: new Set(), waiting: false };
    feed.on("change:scene", () => {
      store.waiting = false;
      for (const view of store.views) view.paint();
    });
    STORES.set(feed, store);
  }
  return STORES.get(feed);
}

function ask(store, message) {
  store.waiting = true;
  for (const view of store.views) view.root.setAttribute("aria-busy", "true");
  store.feed.send(message);
}

function panel(name, title, ...children) {
  const head = make("div", { class: "vm-head" }, make("h4", {}, title));
  return { head, element: make("section", { class: `vm-panel vm-${name}`, "aria-label": title }, head, ...children) };
}

function createView(root, store) {
  const view = { root, store, listing: null, rows: new Map() };
  const bar = make("header", { class: "vm-toolbar" });
  const title = make("strong", { class: "vm-title" });
  const counter = make("output", { class: "vm-counter", "data-testid": "counter" });
  const buttons = {};
  const row = make("div", { class: "vm-buttons", role: "toolbar", "aria-label": "Commands" });
  for (const [name, [path, label, key]] of Object.entries(GLYPHS)) {
    const icon = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
    icon.append(draw("path", { d: path, class: OUTLINED.has(name) ? "vm-outline" : "" }));
    const button = make("button", { type: "button", class: "vm-button", "data-testid": name, "aria-label": label, title: `${label} (${key})` }, icon);
    if (name === "step") row.append(make("span", { class: "vm-gap", "aria-hidden": "true" }));
    button.addEventListener("click", () => ask(store, { type: name }));
    buttons[name] = button;
    row.append(button);
  }
  const slider = make("input", { type: "range", min: 0, step: 1, "data-testid": "scrub", "aria-label": "Step" });
  slider.addEventListener("input", () => ask(store, { type: "goto", step: Number(slider.value) }));
  bar.append(title, row, slider, counter);

  const lines = make("div", { class: "vm-lines", "data-testid": "code" });
  const code = panel("code", "Code", lines);
  code.head.append(make("span", { class: "vm-legend" }, "click a line: breakpoint (b)"));
  const registers = make("div", { class: "vm-table vm-pairs", "data-testid": "registers" });
  const flags = make("p", { class: "vm-flags", "data-testid": "flags" });
  const registerPanel = panel("registers", "Registers", registers, flags);
  const mode = make("span", { class: "vm-legend", "data-testid": "mode" });
  registerPanel.head.append(mode);
  const stack = make("div", { class: "vm-table vm-stack", "data-testid": "stack" });
  const stackPanel = panel("stacked", "Stack", stack);
  const memory = make("div", { class: "vm-table vm-dump", "data-testid": "memory" });
  const place = make("input", { type: "text", value: "esp", spellcheck: "false", "data-testid": "place", "aria-label": "Address of the memory shown: a number, a symbol, an expression" });
  const space = make("select", { "data-testid": "space", "aria-label": "Address space" }, new Option("virtual", ""), new Option("physical", "1"));
  const look = () => ask(store, { type: "memory", place: place.value, physical: space.value !== "" });
  place.addEventListener("change", look);
  space.addEventListener("change", look);
  const complaint = make("p", { class: "vm-complaint", role: "alert" });
  const memoryPanel = panel("memory", "Memory", memory, complaint);
  memoryPanel.head.append(make("span", { class: "vm-choice" }, place, space));
  const list = make("ul", { class: "vm-list", "data-testid": "breakpoints" });
  const kind = make("select", { "data-testid": "kind", "aria-label": "Kind of breakpoint" });
  for (const [name, [label]] of Object.entries(KINDS)) kind.append(new Option(label, name));
  const text = make("input", { type: "text", spellcheck: "false", "data-testid": "text", placeholder: KINDS.address[1], "aria-label": "What to stop at" });
  kind.addEventListener("change", () => { text.placeholder = KINDS[kind.value][1]; });
  const form = make("form", { class: "vm-form" }, kind, text, make("button", { type: "submit", class: "vm-button", "data-testid": "add" }, "Add"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (text.value.trim()) ask(store, { type: "add", kind: kind.value, text: text.value });
  });
  const breakpoints = panel("breakpoints", "Breakpoints", list, form);
  const console_ = make("pre", { tabindex: "0", "aria-label": "Console of the guest", "data-testid": "console" });
  const consolePanel = panel("console", "Console", console_);
  const say = make("p", { class: "vm-caption", "aria-live": "polite", "data-testid": "caption" });
  const note = make("p", { class: "vm-note", role: "alert", "data-testid": "note" });
  root.replaceChildren(bar, make("div", { class: "vm-main" }, code.element, registerPanel.element, make("div", { class: "vm-side" }, stackPanel.element, breakpoints.element)),
    make("div", { class: "vm-below" }, memoryPanel.element, consolePanel.element), make("div", { class: "vm-say" }, say, note, make("p", { class: "vm-legend" }, "→ ← step · n over a call · f finish · c continue · capitals: backwards")));

  view.paint = () => {
    const scene = store.feed.get("scene");
    if (!scene || scene.step === undefined) return;
    setText(title, scene.title);
    setText(counter, `step ${number(scene.step)} of ${number(scene.length)}`);
    slider.max = scene.length;
    slider.value = scene.step;
    slider.setAttribute("aria-valuetext", `step ${scene.step} of ${scene.length}`);
    for (const [name, button] of Object.entries(buttons)) {
      button.setAttribute("aria-disabled", String(scene.step === (name.startsWith("back") ? 0 : scene.length)));
    }
    paintCode(scene);
    registers.replaceChildren(...scene.registers.map(([name, value, changed]) =>
      make("div", { class: changed ? "vm-pair vm-changed" : "vm-pair", "data-testid": `register-${name}` }, make("span", {}, name), make("b", {}, value))));
    flags.replaceChildren(...scene.flags.map(([name, on]) => make("span", { class: on ? "vm-on" : "vm-off", title: on ? `${name} is set` : `${name} is clear` }, on ? name : name.toLowerCase())));
    setText(mode, scene.mode);
    stack.replaceChildren(...scene.stack.map(([address, value, name]) => make("div", {}, make("span", {}, address), make("b", {}, value), make("i", {}, name))));
    if (!scene.stack.length) stack.append(make("p", { class: "vm-empty" }, "not mapped"));
    memory.replaceChildren(...scene.memory.map(([address, bytes, shown]) => make("div", {}, make("span", {}, address),
      make("b", {}, bytes ? bytes.replace(/(..)/g, "$1 ").replace(/((?:.. ){8})/, "$1 ") : "not mapped"), make("i", {}, shown))));
    setText(complaint, scene.complaint);
    if (document.activeElement !== place) place.value = scene.memory_place;
    space.value = scene.memory_physical ? "1" : "";
    list.replaceChildren(...scene.breakpoints.map(([id, , words]) => {
      const drop = make("button", { type: "button", class: "vm-drop", "aria-label": `Remove breakpoint ${id}: ${words}`, title: "Remove" }, "×");
      drop.addEventListener("click", () => ask(store, { type: "remove", number: id }));
      return make("li", {}, make("span", { class: "vm-dot", "aria-hidden": "true" }, "●"), make("span", {}, `${id}: ${words}`), drop);
    }));
    if (!scene.breakpoints.length) list.append(make("li", { class: "vm-empty" }, "none yet"));
    if (console_.textContent !== scene.console) {
      console_.textContent = scene.console;
      console_.scrollTop = console_.scrollHeight;
    }
    setText(say, `${{ breakpoint: "● ", start: "", end: "", nowhere: "∅ " }[scene.reason] ?? "next: "}${scene.stop}`);
    setText(note, scene.note);
    if (!scene.note && text.value && scene.breakpoints.length !== view.count) text.value = "";
    view.count = scene.breakpoints.length;
    root.setAttribute("aria-busy", "false");
    root.setAttribute("aria-label", `Debugger of ${scene.title}: arrow keys step, n over, f finish, c continue, capitals go back`);
    root.dataset.step = scene.step;
    root.dataset.here = scene.here;
  };

  function paintCode(scene) {
    const key = JSON.stringify([scene.code, scene.marks]);
    if (key !== view.listing) {
      view.listing = key;
      view.rows.clear();
      const marks = new Set(scene.marks);
      lines.replaceChildren();
      for (const [address, label, words, privilege] of scene.code) {
        if (label) lines.append(make("div", { class: "vm-symbol" }, `${label}:`));
        const [mnemonic, ...rest] = words.split(" ");
        const set = marks.has(address);
        const line = make("button", { type: "button", tabindex: "-1", class: "vm-line", "data-address": address, "aria-pressed": String(set), title: set ? "Remove the breakpoint" : "Set a breakpoint" },
          make("span", { class: "vm-dot" }, set ? "●" : ""), make("span", { class: "vm-address" }, address), make("span", { class: "vm-text" }, make("b", {}, mnemonic), rest.length ? ` ${rest.join(" ")}` : ""));
        if (privilege) line.append(make("i", { class: `vm-mark vm-mark-${privilege}`, title: privilege === "p" ? "privileged" : "sensitive, but unprivileged" }, privilege.toUpperCase()));
        line.addEventListener("click", () => ask(store, { type: "toggle", address }));
        view.rows.set(address, line);
        lines.append(line);
      }
    }
    view.current?.classList.remove("vm-now");
    view.current = view.rows.get(scene.here);
    if (!view.current) return;
    view.current.classList.add("vm-now");
    const top = view.current.offsetTop;
    if (top < lines.scrollTop + 40 || top > lines.scrollTop + lines.clientHeight - 60) lines.scrollTop = top - view.current.offsetHeight * Math.floor((lines.clientHeight * 0.4) / view.current.offsetHeight);
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
    const scene = store.feed.get("scene");
    const message = KEYS[event.key] ? { type: KEYS[event.key] }
      : event.key === "Home" ? { type: "goto", step: 0 }
      : event.key === "End" ? { type: "goto", step: scene.length }
      : event.key === "b" ? { type: "toggle", address: scene.here } : null;
    if (!message) return;
    event.preventDefault();
    event.stopPropagation();
    ask(store, message);
  });
  return view;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-debugger", tabindex: "0", role: "group", "data-testid": "debugger", "data-lm-suppress-shortcuts": "true", "aria-busy": "true" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This debugger has lost its kernel: run the cell again.");
    return;
  }
  const store = storeOf(feed);
  const view = createView(root, store);
  store.views.add(view);
  view.paint();
  feed.send({ type: "ready" });
  return () => store.views.delete(view);
}

export default { render };
