// The stage: plays a window of scenes of a recorded machine in the browser.
//
// It holds no truth. The kernel computes scenes from the recording; this module keeps those it was sent, moves a
// cursor over them, draws the one under the cursor, and asks for the next window before the cursor reaches the edge.
//
// State comes through a plain core model, the *feed* (traits script, window, step), not through the anywidget model:
// anywidget 0.11 drops every update of its own model for good when this module takes longer than 2 s to load. The
// feed's state is kept current by the widget manager however late the module is; a view reads it when it is drawn,
// says `ready`, and the kernel then sends again what it wants shown.

const KEEP = 6000; // scenes held at most
const AHEAD = 96; // ask for more when fewer than this many lie between the cursor and the edge
const PATIENCE = 4000; // milliseconds after which an unanswered request is made again
const SPEEDS = [1, 2, 4, 10, 30, 60];
const TOKEN = 560; // milliseconds of a token's way
const STORES = new WeakMap(); // feed -> store: all views of one stage share one cursor

// ------------------------------------------------------------------------------- the store: scenes, cursor, transport

function storeOf(feed) {
  if (!STORES.has(feed)) STORES.set(feed, createStore(feed));
  return STORES.get(feed);
}

function createStore(feed) {
  const store = {
    feed, views: new Set(), scenes: new Map(), listings: {}, script: null, step: 0, previous: 0,
    playing: false, speed: 4, pinned: "", waiting: null, asked: 0, due: 0, saved: 0,
  };
  feed.on("change:script", () => takeScript(store));
  feed.on("change:window", () => takeWindow(store));
  feed.on("change:step", () => {
    if (feed.get("step") !== store.step && !store.saving) go(store, feed.get("step"));
  });
  feed.on("msg:custom", (message) => message.type === "note" && announce(store, message.text));
  takeScript(store);
  return store;
}

function takeScript(store) {
  const script = store.feed.get("script");
  if (!script || script.serial === undefined) return;
  const fresh = !store.script || store.script.serial !== script.serial;
  store.script = script;
  if (fresh) {
    Object.assign(store, { scenes: new Map(), listings: {}, playing: false, waiting: null, asked: 0, pinned: "" });
    store.step = store.previous = clamp(store.feed.get("step") || 0, 0, script.length);
    for (const view of store.views) view.rebuild();
  }
  takeWindow(store);
}

// A window is one full scene and what changes after it; scenes share what did not change.
function takeWindow(store) {
  const batch = store.feed.get("window");
  if (!store.script || !batch || batch.serial !== store.script.serial) return;
  Object.assign(store.listings, batch.listings);
  let scene = null;
  batch.scenes.forEach((delta, n) => {
    scene = { ...scene, caption: "", events: [], motion: null, ...delta, step: batch.start + n, batch };
    store.scenes.set(scene.step, scene);
  });
  store.asked = 0;
  const target = store.waiting === "seek" ? batch.goto : store.waiting;
  if (store.waiting === "seek" && batch.note) announce(store, batch.note);
  if (store.waiting === "seek") store.waiting = null;
  if (store.scenes.has(target)) {
    store.waiting = null;
    arrive(store, target);
  }
  forget(store);
  prefetch(store);
  repaint(store, true);
}

function forget(store) {
  if (store.scenes.size <= KEEP) return;
  for (const step of store.scenes.keys()) if (Math.abs(step - store.step) > KEEP / 3) store.scenes.delete(step);
}

function ask(store, start) {
  const now = performance.now();
  if (!store.script || (store.asked && now - store.asked < PATIENCE)) return;
  store.asked = now;
  store.feed.send({ type: "window", start: clamp(start, 0, store.script.length) });
}

// Ask for what is missing: where the cursor is to go, else what lies around it.
function prefetch(store) {
  const { scenes, step, script, waiting } = store;
  if (typeof waiting === "number") return ask(store, waiting - script.lead);
  for (let n = step; n <= Math.min(step + AHEAD, script.length); n += 1) if (!scenes.has(n)) return ask(store, n);
  for (let n = step; n >= Math.max(step - AHEAD, 0); n -= 1) if (!scenes.has(n)) return ask(store, n - script.size + 1);
}

function go(store, step) {
  if (!store.script) return;
  const target = clamp(Math.round(step), 0, store.script.length);
  if (store.scenes.has(target)) {
    store.waiting = null;
    arrive(store, target);
    return;
  }
  store.waiting = target;
  clearTimeout(store.timer); // while a slider is dragged, the last place counts
  store.timer = setTimeout(() => prefetch(store), 60);
  repaint(store);
}

function arrive(store, target) {
  store.previous = store.step;
  store.step = target;
  prefetch(store);
  repaint(store);
  save(store);
}

// Tell the kernel where the cursor is, a few times a second at most: it is a courtesy, nothing waits for it.
function save(store) {
  clearTimeout(store.saver);
  const wait = clamp(store.saved + 250 - performance.now(), 0, 250);
  store.saver = setTimeout(() => {
    store.saved = performance.now();
    store.saving = true;
    store.feed.set("step", store.step);
    store.saving = false;
    store.feed.save_changes();
  }, wait);
}

const isTrap = (store, scene) => scene.events.some((event) => store.script.stops.includes(event.kind));

function seek(store, direction) {
  pause(store);
  for (let n = store.step + direction; store.scenes.has(n); n += direction) {
    if (isTrap(store, store.scenes.get(n))) return go(store, n);
    if (n === 0 || n === store.script.length) return announce(store, direction > 0 ? "No trap follows." : "No trap before.");
  }
  if (!store.script || store.step + direction < 0 || store.step + direction > store.script.length) return;
  store.waiting = "seek"; // outside what is here: the kernel seeks in the recording
  store.feed.send({ type: "seek", direction, from: store.step });
  repaint(store);
}

function announce(store, text) {
  for (const view of store.views) view.announce(text);
}

function play(store) {
  if (store.playing || !store.script) return;
  if (store.step >= store.script.length) go(store, 0);
  store.playing = true;
  store.due = performance.now() + 1000 / store.speed;
  const tick = (now) => {
    if (!store.playing) return;
    const pace = 1000 / store.speed;
    while (now >= store.due) {
      if (store.step >= store.script.length) return pause(store);
      if (!store.scenes.has(store.step + 1)) { // the next window is under way
        ask(store, store.step + 1);
        store.due = now + 30;
        break;
      }
      arrive(store, store.step + 1);
      store.due = Math.max(store.due + pace, now - 250);
    }
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  repaint(store);
}

function pause(store) {
  if (!store.playing) return;
  store.playing = false;
  repaint(store);
}

function walk(store, by) {
  pause(store);
  go(store, (typeof store.waiting === "number" ? store.waiting : store.step) + by);
}

function repaint(store, all = false) {
  for (const view of store.views) view.paint(all);
}

// ------------------------------------------------------------------------------------------------------- the controls

const BUTTONS = [
  ["first", "First step", "Home", (store) => { pause(store); go(store, 0); }],
  ["previous", "Previous trap", "p", (store) => seek(store, -1)],
  ["back", "Step back", "←", (store) => walk(store, -1)],
  ["play", "Play", "Space", (store) => (store.playing ? pause(store) : play(store))],
  ["step", "Step", "→", (store) => walk(store, 1)],
  ["next", "Next trap", "n", (store) => seek(store, 1)],
  ["last", "Last step", "End", (store) => { pause(store); go(store, store.script.length); }],
];
const KEYS = {
  ArrowLeft: "back", ArrowRight: "step", " ": "play", n: "next", p: "previous", Home: "first", End: "last",
};

function buildButtons(store) {
  const buttons = {};
  const row = make("div", { class: "vm-buttons", role: "toolbar", "aria-label": "Transport" });
  for (const [name, label, key, action] of BUTTONS) {
    const button = iconButton(name, label, key);
    const word = make("span", {}, make("i", {}, "▼"), " trap");
    if (name === "previous") button.append(word);
    if (name === "next") button.prepend(word);
    button.addEventListener("click", () => store.script && action(store));
    buttons[name] = button;
    row.append(button);
  }
  return { row, buttons };
}

function keyboard(root, store) {
  const actions = Object.fromEntries(BUTTONS.map(([name, , , action]) => [name, action]));
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT" || !store.script) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return; // a button's own key
    const name = KEYS[event.key];
    if (!name) return;
    event.preventDefault();
    event.stopPropagation();
    actions[name](store);
  });
}

function buildToolbar(store) {
  const { script } = store;
  const bar = make("header", { class: "vm-toolbar" });
  if (!script.choices.some((choice) => choice.name === "technique")) bar.append(make("strong", { class: "vm-title" }, script.title));
  for (const choice of script.choices) {
    bar.append(select(choice.name, choice.label, choice.options.map((o) => [o, o]), choice.value, (value) => {
      pause(store);
      store.feed.send({ type: "choose", name: choice.name, value });
      announce(store, `Recording again: ${choice.label} ${value} …`);
    }));
  }
  if (script.guests.length > 1) {
    const options = [["", "the running one"], ...script.guests.map((guest, n) => [String(n), guest])];
    bar.append(select("guest", "Guest", options, store.pinned, (value) => { store.pinned = value; repaint(store, true); }));
  }
  const speeds = SPEEDS.map((speed) => [String(speed), `${speed} steps/s`]);
  bar.append(select("speed", "Speed", speeds, String(store.speed), (value) => {
    store.speed = Number(value);
    store.due = performance.now();
  }));
  const counter = make("output", { class: "vm-counter", "data-testid": "counter" });
  bar.append(counter);
  return { bar, counter };
}

// ------------------------------------------------------------------------------------------------- panel: layer graph

function buildGraph(shape) {
  const svg = draw("svg", { class: "vm-graph", preserveAspectRatio: "xMinYMid meet", viewBox: `0 0 ${shape.width} ${shape.height}`, role: "img", "aria-label": "Layers of the running system", "data-testid": "graph" });
  const parts = { svg, zones: {}, frames: [], nodes: {}, edges: {}, motion: 0 };
  for (const zone of shape.zones) {
    const group = draw("g", { class: `vm-zone vm-zone-${zone.id}`, "data-zone": zone.id });
    group.append(draw("rect", { x: 1, y: zone.y, width: shape.width - 2, height: zone.h, rx: 5 }));
    group.append(draw("rect", { class: "vm-zone-mark", x: 1, y: zone.y, width: 4, height: zone.h, rx: 2 }));
    const middle = zone.y + zone.h / 2;
    const upright = (x, text) => draw("text", { x, y: middle, transform: `rotate(-90 ${x} ${middle})`, "text-anchor": "middle", dy: "0.32em" }, text);
    const label = upright(zone.id === "hardware" ? 17 : 13, zone.label);
    const ring = upright(26, "");
    group.append(label, ring);
    parts.zones[zone.id] = { group, ring };
    svg.append(group);
  }
  for (const frame of shape.frames) {
    const group = draw("g", { class: "vm-frame", "data-guest": frame.guest });
    group.append(draw("rect", { x: frame.x, y: frame.y, width: frame.w, height: frame.h, rx: 7 }));
    group.append(draw("text", { x: frame.x + 9, y: frame.y + 14.5, class: "vm-frame-title" }, frame.title));
    const mode = draw("text", { x: frame.x + frame.w - 8, y: frame.y + 14.5, "text-anchor": "end", class: "vm-frame-mode" });
    group.append(mode);
    parts.frames[frame.guest] = { group, mode, narrow: frame.narrow };
    svg.append(group);
  }
  for (const edge of shape.edges) {
    const path = draw("path", { d: edge.d, class: `vm-edge vm-edge-${edge.relation.replace(" ", "-")}`, "data-edge": edge.id });
    parts.edges[edge.id] = path;
    svg.append(path);
  }
  for (const node of shape.nodes) {
    const group = draw("g", { class: `vm-node vm-node-${node.kind}`, "data-node": node.id, style: `--role: var(--vm-${node.role}); --ink: var(--vm-${node.role}-ink); --tint: var(--vm-${node.role}-tint)` });
    if (node.stroke) group.append(draw("path", { class: "vm-stroke", d: node.stroke }));
    group.append(draw("path", { d: node.d }));
    const middle = node.x + node.w / 2;
    const label = draw("text", { x: middle, y: node.y + node.h / 2, dy: "0.34em", "text-anchor": "middle", class: "vm-label" }, node.label);
    const sub = draw("text", { x: middle, y: node.y + node.h / 2 + 13, "text-anchor": "middle", class: "vm-sub" });
    group.append(label, sub);
    parts.nodes[node.id] = { group, label, sub, node };
    setSub(parts.nodes[node.id], node.sub);
    svg.append(group);
  }
  parts.token = draw("g", { class: "vm-token", visibility: "hidden" });
  parts.token.append(draw("circle", { r: 9 }), draw("text", { "text-anchor": "middle", dy: "0.36em" }));
  svg.append(parts.token);
  return parts;
}

function setSub(part, text) {
  const { node, label, sub } = part;
  const flat = node.h < 34; // one line: both beside each other
  const room = Math.floor(node.kind === "processes" ? (node.w - 20) / 5.9 : node.w / 5.2);
  if (!flat && text && text.length > room) text = room > 5 ? `${text.slice(0, room - 1)}…` : "";
  setText(label, flat && text ? `${node.label} · ${text}` : node.label);
  setText(sub, flat ? "" : text || "");
  label.setAttribute("y", node.y + node.h / 2 - (!flat && text ? 6.5 : 0));
  sub.setAttribute("y", node.y + node.h / 2 + 12);
}

function paintGraph(parts, scene, store, animate) {
  const lit = new Set(scene.lit);
  for (const [id, part] of Object.entries(parts.nodes)) {
    part.group.classList.toggle("vm-lit", lit.has(id));
    setSub(part, scene[`sub:${id}`] ?? part.node.sub);
  }
  for (const [id, zone] of Object.entries(parts.zones)) {
    const here = id === scene.zone;
    zone.group.classList.toggle("vm-here", here);
    setText(zone.ring, here ? `ring ${scene.ring}` : "");
  }
  parts.frames.forEach((frame, n) => {
    frame.group.classList.toggle("vm-current", n === scene.guest);
    const mode = scene[`mode:${n}`];
    setText(frame.mode, scene[`state:${n}`] === "ended" ? "ended" : frame.narrow ? "" : `virtual ${mode} mode`);
  });
  for (const [id, path] of Object.entries(parts.edges)) {
    const moving = scene.motion && scene.motion.edge === id;
    path.classList.toggle("vm-moving", Boolean(moving));
    path.style.setProperty("--role", moving ? `var(--vm-${scene.motion.role})` : "");
  }
  moveToken(parts, scene, store, animate);
}

// The token runs along an edge: down for a trap, up for a resume, and the other way when stepping back.
function moveToken(parts, scene, store, animate) {
  cancelAnimationFrame(parts.motion);
  const { token } = parts;
  const path = scene.motion && parts.edges[scene.motion.edge];
  if (!path) return token.setAttribute("visibility", "hidden");
  const total = path.getTotalLength();
  const place = (share) => {
    const point = path.getPointAtLength(total * (scene.motion.up ? 1 - share : share));
    token.setAttribute("transform", `translate(${point.x} ${point.y})`);
  };
  token.setAttribute("visibility", "visible");
  token.style.setProperty("--role", `var(--vm-${scene.motion.role})`);
  setText(token.lastChild, scene.motion.glyph);
  const duration = store.playing ? Math.min(TOKEN, 850 / store.speed) : TOKEN;
  if (!animate || reducedMotion() || duration < 60) return place(0.5);
  const start = performance.now();
  const frame = (now) => {
    const share = clamp((now - start) / duration, 0, 1);
    const eased = share < 0.5 ? 2 * share * share : 1 - (2 - 2 * share) ** 2 / 2;
    place(animate > 0 ? eased : 1 - eased);
    if (share < 1) parts.motion = requestAnimationFrame(frame);
  };
  frame(start);
}

// ------------------------------------------------------------------------------------- panels: code and console, text

const PRIVILEGE = { p: ["P", "privileged"], s: ["S", "sensitive, but unprivileged"] };

function buildCode() {
  const title = make("h4", {}, "Guest code");
  const legend = make("span", { class: "vm-legend" });
  for (const [key, [letter, words]] of Object.entries(PRIVILEGE)) {
    legend.append(make("i", { class: `vm-mark vm-mark-${key}` }, letter), make("span", {}, key === "s" ? "sensitive" : words));
  }
  const lines = make("div", { class: "vm-lines", "data-testid": "code" });
  const element = make("section", { class: "vm-panel vm-code", "aria-label": "Guest code" }, make("div", { class: "vm-head" }, title, legend), lines);
  return { element, lines, title, built: new Map(), shown: null, current: null };
}

function buildListing(listing) {
  const rows = new Map();
  const element = make("div", { class: "vm-listing" });
  for (const [address, label, text, mark] of listing) {
    if (label) element.append(make("div", { class: "vm-symbol" }, `${label}:`));
    const [mnemonic, ...rest] = text.split(" ");
    const badge = make("i", { class: mark ? `vm-mark vm-mark-${mark}` : "vm-mark" }, mark ? PRIVILEGE[mark][0] : "");
    if (mark) badge.title = PRIVILEGE[mark][1];
    const row = make("div", { class: "vm-line", "data-address": hex(address) }, make("span", { class: "vm-address" }, hex(address)), badge,
      make("span", { class: "vm-text" }, make("b", {}, mnemonic), rest.length ? ` ${rest.join(" ")}` : ""));
    rows.set(address, row);
    element.append(row);
  }
  return { element, rows };
}

function paintCode(panel, scene, store, guest) {
  const [id, address] = scene[`code:${guest}`] ?? ["", 0];
  setText(panel.title, store.script.guests.length > 1 ? `Code of ${store.script.guests[guest]}` : "Guest code");
  if (!panel.built.has(id)) panel.built.set(id, buildListing(store.listings[id] ?? []));
  const listing = panel.built.get(id);
  if (panel.shown !== listing) {
    panel.lines.replaceChildren(listing.element);
    panel.shown = listing;
  }
  panel.current?.classList.remove("vm-now", "vm-trapped");
  const row = (panel.current = listing.rows.get(address));
  if (!row) return;
  row.classList.add("vm-now");
  row.classList.toggle("vm-trapped", store.script.virtual && isTrap(store, scene));
  const top = row.offsetTop;
  if (top < panel.lines.scrollTop + 20 || top > panel.lines.scrollTop + panel.lines.clientHeight - 44) {
    // A whole number of lines, so that none is cut at the upper edge.
    panel.lines.scrollTop = Math.max(0, top - row.offsetHeight * Math.floor((panel.lines.clientHeight * 0.33) / row.offsetHeight));
  }
}

function buildConsole() {
  const title = make("h4", {}, "Console");
  const text = make("pre", { "data-testid": "console", tabindex: "0", "aria-label": "Console of the guest" });
  return { title, text, element: make("section", { class: "vm-panel vm-console" }, make("div", { class: "vm-head" }, title), text) };
}

function paintConsole(panel, scene, store, guest) {
  const { base, text } = scene.batch.consoles[guest];
  const shown = text.slice(0, Math.max(0, (scene[`console:${guest}`] ?? 0) - base));
  setText(panel.title, store.script.guests.length > 1 ? `Console of ${store.script.guests[guest]}` : "Console");
  if (panel.text.textContent === shown) return;
  panel.text.textContent = shown;
  panel.text.scrollTop = panel.text.scrollHeight;
}

// --------------------------------------------------------------------------------------------------- panel: registers

function buildRegisters(script) {
  const columns = script.virtual ? [["vcpu", "VCPU"], ["cpu", "CPU"]] : [["cpu", "CPU"]];
  const head = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "vm-hidden" }, "register")));
  const modes = make("tr", { class: "vm-modes" }, make("th", { scope: "row" }, "mode"));
  const flag = make("tr", { class: "vm-if" }, make("th", { scope: "row", title: "Interrupt flag" }, "IF"));
  const body = make("tbody", {}, modes, flag);
  const cells = { mode: {}, IF: {}, registers: [] };
  for (const [key, label] of columns) {
    head.append(make("th", { scope: "col", title: key === "vcpu" ? "what the VMM keeps for the guest; quiet: saved at the last exit, now in the CPU" : "what the hardware holds" }, label));
    modes.append((cells.mode[key] = make("td", { "data-testid": `${key}-mode` })));
    flag.append((cells.IF[key] = make("td", { "data-testid": `${key}-IF` })));
  }
  for (const name of script.registers) {
    const direct = !/^(C|SS)/.test(name);
    const pair = { label: make("th", { scope: "row" }, name) };
    const row = make("tr", { "data-register": name, class: direct ? "vm-direct" : "" }, pair.label);
    for (const [key] of columns) row.append((pair[key] = make("td", { "data-testid": `${key}-${name}` })));
    cells.registers.push(pair);
    body.append(row);
  }
  const table = make("table", {}, make("thead", {}, head), body);
  return { cells, columns, element: make("section", { class: "vm-panel vm-registers", "aria-label": "Registers" }, table) };
}

function paintRegisters(panel, scene, store, guest) {
  const { script } = store;
  const before = store.scenes.get(scene.step - 1) ?? scene;
  const flags = script.registers.indexOf("EFLAGS");
  panel.cells.registers.forEach((pair, n) => setText(pair.label, script.registers[n].replace(/^E(?!S$)/, scene.long ? "R" : "E")));
  // While its guest runs, a VCPU's general registers are those of the last exit: the present ones are in the CPU.
  panel.element.classList.toggle("vm-running", script.virtual && !scene.in_vmm && guest === scene.guest);
  for (const [key] of panel.columns) {
    const name = key === "vcpu" ? `vcpu:${guest}` : "cpu";
    const now = scene[name];
    const old = before[name] ?? now;
    const mode = key === "vcpu" ? scene[`mode:${guest}`] : `ring ${scene.ring}`;
    setText(panel.cells.mode[key], mode);
    const oldMode = key === "vcpu" ? before[`mode:${guest}`] : `ring ${before.ring}`;
    panel.cells.mode[key].classList.toggle("vm-changed", mode !== oldMode);
    panel.cells.mode[key].dataset.mode = key === "vcpu" ? mode : scene.ring === 0 ? "kernel" : "user";
    const bit = (now[flags] >> 9) & 1;
    setText(panel.cells.IF[key], bit ? "1 on" : "0 off");
    panel.cells.IF[key].dataset.bit = bit;
    panel.cells.IF[key].classList.toggle("vm-changed", bit !== ((old[flags] >> 9) & 1));
    panel.cells.registers.forEach((pair, n) => {
      setText(pair[key], hex(now[n], script.registers[n].length === 2 && script.registers[n][1] === "S" ? 4 : 8));
      pair[key].classList.toggle("vm-changed", now[n] !== old[n]);
    });
  }
}

// ---------------------------------------------------------------------------------------- timeline strip and overview

const GUTTER = 96;

function buildTimeline(store) {
  const { script } = store;
  const lane_ = script.lanes.length > 4 ? 12 : 15; // pixels of a lane
  const height = script.lanes.length * lane_ + 2;
  const svg = draw("svg", { class: "vm-timeline", height, role: "img", "aria-label": "Timeline: guest, monitor and hardware", "data-testid": "timeline" });
  const strip = { svg, height, lane: lane_, page: -1, count: 0, width: 0, marks: draw("g"), cursor: draw("rect", { class: "vm-cursor", y: 0, height, rx: 2 }) };
  script.lanes.forEach((lane, n) => {
    svg.append(draw("rect", { class: "vm-lane", x: GUTTER, y: n * lane_ + 1, width: "100%", height: lane_ - 2 }));
    svg.append(draw("text", { class: "vm-lane-label", x: GUTTER - 8, y: (n + 0.5) * lane_ + 1, dy: "0.34em", "text-anchor": "end" }, lane.label));
  });
  svg.append(strip.cursor, strip.marks);
  const jump = (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left - GUTTER;
    if (x < 0) return;
    pause(store);
    go(store, Math.min(strip.page * strip.count + Math.floor(x / strip.unit), store.script.length));
  };
  svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); jump(event); });
  svg.addEventListener("pointermove", (event) => event.buttons & 1 && jump(event));
  return strip;
}

function paintTimeline(strip, scene, store, all) {
  const { script } = store;
  const width = strip.svg.clientWidth - GUTTER;
  if (width <= 0) return;
  if (width !== strip.width) Object.assign(strip, { width, count: Math.max(20, Math.floor(width / 9)), page: -1 });
  strip.unit = width / strip.count;
  const page = Math.floor(scene.step / strip.count);
  if (page !== strip.page || all) {
    strip.page = page;
    const marks = document.createDocumentFragment();
    for (let n = 0; n < strip.count; n += 1) {
      const here = store.scenes.get(page * strip.count + n);
      if (here) marks.append(...timelineMarks(here, n * strip.unit + GUTTER, strip, script));
    }
    strip.marks.replaceChildren(marks);
  }
  strip.cursor.setAttribute("x", GUTTER + (scene.step - page * strip.count) * strip.unit);
  strip.cursor.setAttribute("width", strip.unit);
}

function timelineMarks(scene, x, { unit, lane: tall }, script) {
  const lane = script.lanes.findIndex((entry) => entry.id === scene.lane);
  const marks = [draw("rect", { class: "vm-tick", x: x + 0.75, y: lane * tall + 3.5, width: unit - 1.5, height: tall - 7, rx: 1.5, style: `--role: var(--vm-${script.lanes[lane].role})` })];
  const shown = scene.events.find((event) => event.glyph);
  if (shown) {
    marks.push(draw("text", { class: "vm-glyph", x: x + unit / 2, y: (lane + 0.5) * tall, dy: "0.36em", "text-anchor": "middle", style: `--role: var(--vm-${shown.role}-ink)` }, shown.glyph));
    marks.at(-1).append(draw("title", {}, `step ${scene.step}: ${scene.events.map((event) => event.text).join(", ")}`));
    marks[0].classList.add("vm-eventful");
  }
  return marks;
}

function buildOverview(store) {
  const { script } = store;
  const bins = script.overview;
  const most = Math.max(1, ...bins);
  const svg = draw("svg", { viewBox: `0 0 ${bins.length} 20`, preserveAspectRatio: "none", "aria-hidden": "true" });
  let path = "";
  bins.forEach((count, n) => { if (count) path += `M${n + 0.5} 20V${20 - 2 - (17 * count) / most}`; });
  svg.append(draw("path", { d: path }));
  const slider = make("input", { type: "range", min: 0, max: script.length, step: 1, "data-testid": "scrub", "aria-label": "Step", title: "Whole run: density of traps; drag to scrub" });
  slider.addEventListener("input", () => { pause(store); go(store, Number(slider.value)); });
  return { slider, element: make("div", { class: "vm-overview" }, make("span", {}, "whole run"), make("div", { class: "vm-track" }, svg, slider)) };
}

// ----------------------------------------------------------------------------------------------------------- one view

function createView(root, store) {
  const view = { parts: null, drawn: null };

  view.rebuild = () => {
    const { script } = store;
    const toolbar = buildToolbar(store);
    const graph = buildGraph(script.shape);
    const code = buildCode();
    const console_ = buildConsole();
    const registers = buildRegisters(script);
    const caption = make("p", { class: "vm-caption", "aria-live": "polite", "data-testid": "caption" });
    const mark = make("span", { class: "vm-caption-mark", "aria-hidden": "true" });
    const timeline = buildTimeline(store);
    const overview = buildOverview(store);
    const { row, buttons } = buildButtons(store);
    const legend = make("div", { class: "vm-key", "aria-hidden": "true" });
    for (const [glyph, role, word] of script.marks) {
      legend.append(make("span", {}, make("i", { style: `color: var(--vm-${role}-ink)` }, glyph), word));
    }
    root.replaceChildren(
      toolbar.bar,
      make("div", { class: "vm-main" }, make("div", { class: "vm-panel vm-picture" }, graph.svg), make("div", { class: "vm-middle" }, code.element, console_.element), registers.element),
      make("div", { class: "vm-say" }, mark, caption),
      make("div", { class: "vm-panel vm-time" }, timeline.svg, overview.element),
      make("footer", { class: "vm-footer" }, row, legend),
    );
    view.parts = { toolbar, graph, code, console_, registers, caption, mark, timeline, overview, buttons };
    view.drawn = null;
    root.setAttribute("aria-label", `${script.title}: arrow keys step, space plays, n and p go to the next and previous trap`);
    view.paint(true);
  };

  view.announce = (text) => view.parts && setText(view.parts.caption, text);

  view.paint = (all = false) => {
    const { parts } = view;
    const scene = store.scenes.get(store.step);
    root.setAttribute("aria-busy", String(store.waiting !== null || !scene));
    if (!parts || !scene) return;
    if (all || view.drawn !== scene) paintScene(view, scene, store, all);
    const { play: button } = parts.buttons;
    const name = store.playing ? "pause" : "play";
    button.setAttribute("aria-label", store.playing ? "Pause" : "Play");
    button.querySelector("path").setAttribute("d", ICONS[name]);
    root.dataset.playing = String(store.playing);
    for (const [key, end] of [["first", 0], ["back", 0], ["step", store.script.length], ["last", store.script.length]]) {
      parts.buttons[key].setAttribute("aria-disabled", String(store.step === end));
    }
    parts.caption.setAttribute("aria-live", store.playing ? "off" : "polite");
  };
  return view;
}

function paintScene(view, scene, store, all) {
  const { parts, drawn } = view;
  const guest = store.pinned === "" ? scene.guest : Number(store.pinned);
  const moved = drawn ? scene.step - drawn.step : 0;
  if (drawn !== scene) paintGraph(parts.graph, scene, store, Math.abs(moved) === 1 ? moved : 0);
  paintCode(parts.code, scene, store, guest);
  paintConsole(parts.console_, scene, store, guest);
  paintRegisters(parts.registers, scene, store, guest);
  paintTimeline(parts.timeline, scene, store, all);
  parts.overview.slider.value = scene.step;
  parts.overview.slider.setAttribute("aria-valuetext", `step ${scene.step} of ${store.script.length}`);
  setText(parts.toolbar.counter, `step ${number(scene.step)} of ${number(store.script.length)}`);
  const event = scene.events.find((entry) => entry.glyph);
  setText(parts.mark, event ? event.glyph : "");
  parts.mark.style.color = event ? `var(--vm-${event.role}-ink)` : "";
  setText(parts.caption, scene.caption);
  view.drawn = scene;
  const root = parts.caption.closest(".vmlab-stage");
  root.dataset.step = scene.step;
  root.dataset.lane = scene.lane;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-stage", tabindex: "0", role: "group", "data-testid": "stage", "data-lm-suppress-shortcuts": "true", "aria-busy": "true" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This stage has lost its kernel: run the cell again.");
    return;
  }
  const store = storeOf(feed);
  const view = createView(root, store);
  keyboard(root, store);
  store.views.add(view);
  if (store.script) view.rebuild();
  const resize = new ResizeObserver(() => view.paint(true));
  resize.observe(root);
  feed.send({ type: "ready" });
  return () => {
    resize.disconnect();
    store.views.delete(view);
    if (store.views.size === 0) pause(store);
  };
}

export default { render };
