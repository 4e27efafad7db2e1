// The console: a guest's screen, and the keys that go to it.
//
// It holds no truth: the kernel runs the machine and says what the screen shows; this module draws it and sends keys.
// Lines are numbered from the guest's start, so that those which have moved off the top stay above the screen. State
// comes through a plain core model, the feed (traits script, screen, status), as for the stage: see stage.js.

const KEPT = 2000; // lines above the screen
const ALIVE = 15000; // milliseconds between two signs that someone looks
const SETTLED = 500; // milliseconds without a change after which a screen reader is told what is new
const STORES = new WeakMap();

const NAMED = new Set([
  "Enter", "Backspace", "Tab", "Escape", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp",
  "PageDown", "Insert", "Delete", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12",
]);
const [BOLD, DIM, ITALIC, UNDERLINE, INVERSE, HIDDEN, STRUCK] = [1, 2, 4, 8, 16, 32, 64];

// ------------------------------------------------------------------------------------------------------------ the store

function storeOf(feed) {
  if (!STORES.has(feed)) STORES.set(feed, createStore(feed));
  return STORES.get(feed);
}

function createStore(feed) {
  const store = { feed, views: new Set(), above: new Map(), epoch: null, queue: [], flushing: 0 };
  feed.on("change:screen", () => takeScreen(store));
  feed.on("change:status", () => each(store, "paintStatus"));
  feed.on("change:script", () => each(store, "rebuild"));
  takeScreen(store);
  return store;
}

function each(store, name) {
  for (const view of store.views) view[name]();
}

function takeScreen(store) {
  const screen = store.feed.get("screen");
  if (!screen || !screen.lines) return;
  if (screen.epoch !== store.epoch) {
    store.above.clear();
    store.epoch = screen.epoch;
  }
  screen.history.lines.forEach((line, n) => store.above.set(screen.history.start + n, line));
  for (const line of store.above.keys()) if (line < screen.first - KEPT || line >= screen.first) store.above.delete(line);
  each(store, "paintScreen");
}

// Keys are sent in the order in which they were pressed; those of one moment in one message.
function send(store, key) {
  store.queue.push(key);
  if (!store.flushing) {
    store.flushing = setTimeout(() => {
      store.flushing = 0;
      store.feed.send({ type: "keys", keys: store.queue.splice(0) });
    }, 0);
  }
}

// ----------------------------------------------------------------------------------------------------------- the screen

const LEVELS = [0, 95, 135, 175, 215, 255];

function rgbOf(colour, palette) {
  if (colour >= 1 << 24) return `#${(colour & 0xffffff).toString(16).padStart(6, "0")}`;
  if (colour < 16) return palette[colour];
  const parts = colour >= 232
    ? Array(3).fill((colour - 232) * 10 + 8)
    : [Math.floor((colour - 16) / 36), Math.floor((colour - 16) / 6) % 6, (colour - 16) % 6].map((n) => LEVELS[n]);
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

const isBright = (rgb) => parseInt(rgb.slice(1, 3), 16) * 3 + parseInt(rgb.slice(3, 5), 16) * 6 + parseInt(rgb.slice(5, 7), 16) > 1280;

// On the panel's own ground the sixteen colours are the theme's; a ground that the guest chose brings its own.
function paintStyle(span, foreground, background, flags, palette) {
  let front = foreground < 0 ? "" : foreground < 16 && background < 0 ? `var(--vm-ansi-${foreground})` : rgbOf(foreground, palette);
  let back = background < 0 ? "" : rgbOf(background, palette);
  if (background >= 0 && foreground < 0) front = isBright(back) ? "#000000" : "#ffffff";
  if (flags & INVERSE) [front, back] = [back || "var(--panel)", front || "var(--text)"];
  if (front) span.style.color = front;
  if (back) span.style.background = back;
  if (flags & BOLD) span.style.fontWeight = "700";
  if (flags & DIM) span.style.opacity = "0.65";
  if (flags & ITALIC) span.style.fontStyle = "italic";
  if (flags & HIDDEN) span.style.visibility = "hidden";
  const lines = [flags & UNDERLINE ? "underline" : "", flags & STRUCK ? "line-through" : ""].join(" ").trim();
  if (lines) span.style.textDecoration = lines;
}

function fillRow(row, runs, palette) {
  row.replaceChildren();
  for (const [text, foreground, background, flags] of runs) {
    if (foreground < 0 && background < 0 && !flags) {
      row.append(text);
      continue;
    }
    const span = make("span", {}, text);
    paintStyle(span, foreground, background, flags, palette);
    row.append(span);
  }
  if (!runs.length) row.append("\n");
}

const plain = (runs) => runs.map(([text]) => text).join("").trimEnd();

// --------------------------------------------------------------------------------------------------------- the keyboard

function keyboard(input, view) {
  const { store } = view;
  input.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab's own keys rest while one types here
    if (event.isComposing || event.key === "Process" || event.metaKey) return;
    if (event.key === "Tab" && event.shiftKey) return; // the way out, for the keyboard alone
    const { key, ctrlKey: ctrl, altKey: alt, shiftKey: shift } = event;
    const letter = key.toLowerCase();
    if (ctrl && letter === "v") return; // pastes
    if (ctrl && letter === "c" && (shift || String(document.getSelection()))) return; // copies
    if (event.getModifierState("AltGraph") && key.length === 1) {
      send(store, { key });
    } else if (NAMED.has(key) || ([...key].length === 1 && key !== "Unidentified")) {
      send(store, { key, ctrl, alt, shift });
    } else {
      return;
    }
    event.preventDefault();
    view.follow = true;
  });
  for (const type of ["keyup", "keypress"]) input.addEventListener(type, (event) => event.stopPropagation());
  // What comes without a key of its own: dead keys, input methods, touch keyboards.
  const take = () => {
    for (const character of input.value) send(store, { key: character === "\n" ? "Enter" : character });
    input.value = "";
  };
  input.addEventListener("input", (event) => event.isComposing || take());
  input.addEventListener("compositionend", take);
  input.addEventListener("paste", (event) => {
    event.preventDefault();
    event.stopPropagation();
    const text = event.clipboardData.getData("text/plain");
    if (text) send(store, { paste: text });
    view.follow = true;
  });
}

// ----------------------------------------------------------------------------------------------------------- one view

const SHAPES = {
  run: "M4 2.5l9 5.5-9 5.5z", pause: "M4 3h3v10H4zM9 3h3v10H9z",
  reset: "M13 8a5 5 0 1 1-1.6-3.7M13 1.5v3.4h-3.4", live: "M13 3v10M3 3l7 5-7 5z",
};
const MARKS = { running: "▶", paused: "‖", waiting: "…", silent: "▷", past: "↶" };

function button(name, label, act) {
  const icon = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  icon.append(draw("path", { d: SHAPES[name] }));
  const element = make("button", { type: "button", class: `vm-button vm-${name}`, "data-testid": name, "aria-label": label, title: label }, icon);
  element.addEventListener("click", act);
  return element;
}

function createView(root, store) {
  const { feed } = store;
  const view = { root, store, rows: new Map(), follow: true, told: null, parts: null };

  view.rebuild = () => {
    const script = feed.get("script");
    if (!script || !script.rows) return;
    const title = make("strong", { class: "vm-title" }, script.title);
    const state = make("span", { class: "vm-state", role: "status", "data-testid": "state" });
    const rate = make("span", { class: "vm-rate", "data-testid": "rate" });
    const run = button("run", "Run", () => feed.send({ type: feed.get("status").running ? "pause" : "run" }));
    const reset = button("reset", "Switch off and on", () => feed.send({ type: "reset" }));
    const slider = make("input", { type: "range", min: 0, step: 1, "data-testid": "history", "aria-label": "Instant of the session", title: "Whole session: drag back to an earlier instant" });
    slider.addEventListener("input", () => feed.send({ type: "seek", step: Number(slider.value) }));
    const live = button("live", "Back to the present", () => feed.send({ type: "live" }));
    const bar = make("header", { class: "vm-toolbar" }, title, state,
      make("div", { class: "vm-buttons", role: "toolbar", "aria-label": "Machine" }, run, reset, slider, live));
    const input = make("textarea", { class: "vm-input", "data-testid": "input", rows: 1, spellcheck: "false", autocapitalize: "off", autocomplete: "off", autocorrect: "off", "aria-label": `Terminal of ${script.title}: what you type goes to the guest; Shift+Tab leaves` });
    const lines = make("div", { class: "vm-rows" });
    const cursor = make("div", { class: "vm-caret", "aria-hidden": "true" });
    const sheet = make("div", { class: "vm-sheet" }, lines, cursor, input);
    const screen = make("div", { class: `vm-screen vm-${script.screen}`, "data-testid": "screen" }, sheet);
    screen.style.setProperty("--columns", script.columns);
    screen.style.setProperty("--rows", script.rows);
    const note = make("p", { class: "vm-note", role: "alert", "data-testid": "note" });
    const log = make("div", { class: "vm-hidden", role: "log", "aria-live": "polite", "data-testid": "log" });
    const hint = make("p", { class: "vm-hint" }, script.hint);
    screen.addEventListener("mouseup", () => String(document.getSelection()) || input.focus({ preventScroll: true }));
    screen.addEventListener("scroll", () => { view.follow = screen.scrollTop + screen.clientHeight >= screen.scrollHeight - 4; });
    keyboard(input, view);
    root.replaceChildren(bar, screen, make("footer", { class: "vm-footer" }, hint, rate), note, log);
    view.rows.clear();
    view.parts = { state, rate, run, reset, slider, live, lines, cursor, screen, sheet, input, note, log };
    view.paintScreen();
    view.paintStatus();
  };

  view.paintScreen = () => {
    const shown = feed.get("screen");
    if (!view.parts || !shown || !shown.lines) return;
    const { lines, cursor, screen, input } = view.parts;
    const { palette } = feed.get("script");
    const wanted = new Map([...store.above.entries()].sort((a, b) => a[0] - b[0]));
    shown.lines.forEach((runs, n) => wanted.set(shown.first + n, runs));
    for (const [place, row] of view.rows) {
      if (!wanted.has(place)) {
        row.element.remove();
        view.rows.delete(place);
      }
    }
    const fresh = [];
    for (const [place, runs] of wanted) {
      const key = JSON.stringify(runs);
      let row = view.rows.get(place);
      if (!row) {
        row = { element: make("div", { class: "vm-row" }), key: null, place };
        view.rows.set(place, row);
        const after = view.rows.get(place - 1)?.element;
        if (after) after.after(row.element);
        else if (view.rows.has(place + 1)) view.rows.get(place + 1).element.before(row.element);
        else lines.append(row.element);
      }
      if (row.key === key) continue;
      if (row.key !== null || view.told !== null) fresh.push(place);
      row.key = key;
      fillRow(row.element, runs, palette);
    }
    const above = store.above.size;
    cursor.hidden = !shown.cursor;
    if (shown.cursor) {
      const [row, column] = shown.cursor;
      cursor.style.top = `calc(${above + row} * var(--line))`;
      cursor.style.left = `${column}ch`;
      input.style.top = cursor.style.top;
      input.style.left = cursor.style.left;
    }
    if (view.follow) screen.scrollTop = screen.scrollHeight;
    root.dataset.line = shown.first + (shown.cursor?.[0] ?? 0);
    view.tell(fresh, wanted);
  };

  // Tell a screen reader what is new, once the screen has come to rest.
  view.tell = (places, wanted) => {
    view.told ??= new Set();
    for (const place of places) view.told.add(place);
    clearTimeout(view.teller);
    view.teller = setTimeout(() => {
      const texts = [...view.told].sort((a, b) => a - b).slice(-12).map((place) => plain(wanted.get(place) ?? [])).filter(Boolean);
      view.told.clear();
      if (texts.length) view.parts.log.replaceChildren(...texts.map((text) => make("p", {}, text)));
    }, SETTLED);
  };

  view.paintStatus = () => {
    const status = feed.get("status");
    if (!view.parts || !status || !status.state) return;
    const { state, rate, run, reset, slider, live, note, cursor } = view.parts;
    const word = status.past ? "past" : ["running", "silent"].includes(status.state) && !status.running ? "paused" : status.state;
    const said = { past: "in the past", waiting: "waits for a key", silent: "running silently" }[word] ?? (status.status === null ? word : `${word}, status ${status.status}`);
    setText(state, `${MARKS[word] ?? "■"} ${said}`);
    state.dataset.state = word;
    setText(rate, status.rate ? `${number(status.instructions)} instructions · ${number(status.rate)}/s` : `${number(status.instructions)} instructions`);
    run.setAttribute("aria-label", status.running ? "Pause" : "Run");
    run.title = status.running ? "Pause" : "Run";
    run.querySelector("path").setAttribute("d", SHAPES[status.running ? "pause" : "run"]);
    run.setAttribute("aria-disabled", String(status.over && !status.past));
    live.setAttribute("aria-disabled", String(!status.past));
    slider.max = status.length;
    if (document.activeElement !== slider || !status.past) slider.value = status.position;
    slider.setAttribute("aria-valuetext", `step ${status.position} of ${status.length}`);
    reset.setAttribute("aria-disabled", String(status.length === 0));
    setText(note, status.note || (status.past ? "An earlier instant. Run goes on from here; who types begins another history." : ""));
    cursor.classList.toggle("vm-resting", Boolean(status.past || status.over));
    root.dataset.state = word;
    root.dataset.running = String(status.running);
    root.dataset.step = status.position;
  };
  return view;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-console", role: "group", "data-testid": "console", "data-lm-suppress-shortcuts": "true", "aria-label": "Console" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This console has lost its kernel: run the cell again.");
    return;
  }
  const store = storeOf(feed);
  const view = createView(root, store);
  store.views.add(view);
  view.rebuild();
  feed.send({ type: "ready" });
  const pulse = setInterval(() => feed.send({ type: "alive" }), ALIVE);
  const resize = new ResizeObserver(() => view.parts && view.follow && (view.parts.screen.scrollTop = view.parts.screen.scrollHeight));
  resize.observe(root);
  return () => {
    clearInterval(pulse);
    resize.disconnect();
    store.views.delete(view);
    if (store.views.size === 0) feed.send({ type: "gone" });
  };
}

export default { render };
