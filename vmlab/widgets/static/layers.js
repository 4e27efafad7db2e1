// The layer explorer: running systems as layered graphs, one or two side by side. A part that is clicked tells its state; an event
// is followed hop by hop, with what each costs.
//
// It holds no truth: what is done to a system is a message to the kernel, which sends the panes anew (trait panes of the feed).

const PLAY = 700; // milliseconds a leg

const LEAST = 0.85; // a smaller picture would have words too small to read

function fit(words, width, letter) {
  const room = Math.floor((width - 8) / letter);
  return words.length <= room ? words : `${words.slice(0, Math.max(1, room - 1))}…`;
}

function buildChoice(view, pane, index) {
  const box = make("select", { "data-testid": `kind-${index}`, "aria-label": `Kind in pane ${index + 1}` });
  for (const [kind, names] of view.names) {
    const group = make("optgroup", { label: kind });
    for (const name of names) group.append(new Option(name, name, false, name === pane.name));
    box.append(group);
  }
  box.addEventListener("change", () => view.ask({ type: "choose", pane: index, name: box.value }));
  return box;
}

function button(label, testid, act) {
  const element = make("button", { type: "button", class: "vm-button", "data-testid": testid }, label);
  element.addEventListener("click", act);
  return element;
}

function buildHeader(view, pane, index) {
  const bar = make("header", { class: "vm-toolbar" }, buildChoice(view, pane, index), make("span", { class: "vm-kind" }, pane.kind));
  const run = (steps) => () => view.ask({ type: "run", pane: index, steps });
  if (!pane.finished) {
    bar.append(button("run 100 steps", `some-${index}`, run(100)), button("run 5 000", `more-${index}`, run(5000)), button("to the end", `end-${index}`, run(1000000)));
  }
  bar.append(button(pane.finished ? "start again" : "restart", `again-${index}`, () => view.ask({ type: "choose", pane: index, name: pane.name })));
  if (view.panes.length > 1) bar.append(button("close", `close-${index}`, () => view.ask({ type: "close", pane: index })));
  else bar.append(button("compare with…", "compare", () => view.ask({ type: "choose", pane: 1, name: pane.name === "VMware Workstation" ? "VMware ESX" : "VMware Workstation" })));
  return bar;
}

function buildPart(view, state, box) {
  const group = draw("g", { "data-part": box.name, class: `vm-part vm-${box.role}`, tabindex: "0", role: "button" });
  const title = draw("title", {}, `${box.label}: ${box.small}`);
  const inner = draw("rect", { x: box.x, y: box.y, width: box.w, height: box.h, rx: 5 });
  const label = draw("text", { x: box.x + box.w / 2, y: box.y + 20, class: "vm-label" });
  const small = draw("text", { x: box.x + box.w / 2, y: box.y + 36, class: "vm-small" }, fit(box.small, box.w, 5.4));
  group.append(title, inner, label, small);
  const choose = () => { state.part = box.name; view.drawPane(state); };
  group.addEventListener("click", choose);
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose();
  });
  return { box, group, label };
}

function buildPicture(view, state) {
  const { pane } = state;
  const svg = draw("svg", { viewBox: `0 0 ${pane.width} ${pane.height}`, "data-testid": `picture-${state.index}`, role: "group", "aria-label": `${pane.name}: its layers` });
  svg.style.maxWidth = `${pane.width * 1.15}px`;
  svg.style.minWidth = `${pane.width * LEAST}px`;
  for (const row of pane.rows) svg.append(draw("text", { x: 2, y: row.y + 28, class: "vm-row" }, row.label));
  state.parts = new Map(pane.boxes.map((box) => [box.name, buildPart(view, state, box)]));
  state.arrow = draw("path", { class: "vm-arrow", d: "" });
  for (const { group } of state.parts.values()) svg.append(group);
  svg.append(state.arrow);
  return svg;
}

function buildJourney(view, state) {
  const { pane } = state;
  const bar = make("div", { class: "vm-toolbar" }, make("span", { class: "vm-follow" }, "Follow:"));
  for (const event of pane.events) bar.append(button(event, `follow-${state.index}-${event.replace(" ", "-")}`, () => view.ask({ type: "follow", pane: state.index, event })));
  const section = make("section", { class: "vm-journey", "aria-label": "An event's way" }, bar);
  state.rows = [];
  if (!pane.journey) return section;
  for (const [name, label, key, act] of [
    ["first", "To the start", "Home", () => view.go(state, 0)], ["back", "Step back", "←", () => view.go(state, state.leg - 1)],
    ["step", "Step", "→", () => view.go(state, state.leg + 1)], ["play", "Play", "p", () => view.play(state)],
  ]) {
    const icon = iconButton(name, label, key);
    icon.addEventListener("click", act);
    bar.append(icon);
  }
  const most = Math.max(...pane.journey.legs.map((leg) => leg.cycles * leg.times), 1);
  const body = make("tbody");
  pane.journey.legs.forEach((leg, number_) => {
    const share = Math.log10(1 + leg.cycles * leg.times) / Math.log10(1 + most);
    const meter = make("span", { class: "vm-bar" });
    meter.style.width = `${Math.round(share * 56)}px`;
    const label = pane.boxes.find((box) => box.name === leg.part)?.label ?? leg.part;
    const row = make("tr", { "data-leg": String(number_) },
      make("td", { class: "vm-number" }, String(number_ + 1)), make("th", { scope: "row" }, label),
      make("td", { class: "vm-what" }, leg.what), make("td", { class: "vm-cycles" }, meter, number(leg.cycles), leg.times > 1 ? ` × ${leg.times}` : ""));
    row.addEventListener("click", () => view.go(state, number_));
    state.rows.push(row);
    body.append(row);
  });
  const head = make("thead", {}, make("tr", {}, ...["", "who", "what", "cycles"].map((text) => make("th", { scope: "col" }, text))));
  state.scroll = make("div", { class: "vm-scroll", tabindex: "0", "aria-label": "Legs of the way" }, make("table", {}, head, body));
  section.append(
    make("p", { class: "vm-sum", "data-testid": `sum-${state.index}` }, make("b", {}, `${pane.journey.event}: ${pane.journey.hops} hops, ${number(pane.journey.cycles)} cycles`),
      " in all. Bars are on a logarithmic scale."),
    state.scroll,
  );
  return section;
}

function createView(root, feed) {
  const view = { root, feed, panes: [], states: [], names: [], serial: 0, timer: null };

  view.ask = (message) => {
    view.stop();
    root.setAttribute("aria-busy", "true");
    feed.send(message);
  };
  view.stop = () => { clearInterval(view.timer); view.timer = null; };
  view.go = (state, leg) => {
    if (!state.pane.journey) return;
    state.leg = clamp(leg, 0, state.pane.journey.legs.length - 1);
    view.drawPane(state);
    const row = state.rows[state.leg];
    if (row) state.scroll.scrollTop = row.offsetTop - state.scroll.clientHeight / 2;
  };
  view.play = (state) => {
    if (view.timer !== null) { view.stop(); return; }
    if (state.leg >= state.pane.journey.legs.length - 1) view.go(state, 0);
    view.timer = setInterval(() => {
      view.go(state, state.leg + 1);
      if (state.leg >= state.pane.journey.legs.length - 1 || !root.isConnected) view.stop();
    }, reducedMotion() ? PLAY * 2 : PLAY);
  };

  view.drawPane = (state) => {
    const { pane } = state;
    const legs = pane.journey?.legs;
    const leg = legs?.[state.leg];
    const control = leg ? leg.part : pane.control;
    const before = leg && state.leg > 0 ? legs[state.leg - 1].part : null;
    for (const [name, part] of state.parts) {
      part.group.classList.toggle("vm-control", name === control);
      part.group.classList.toggle("vm-chosen", name === state.part);
      part.group.setAttribute("aria-pressed", String(name === state.part));
      setText(part.label, fit(name === control ? `▶ ${part.box.label}` : part.box.label, part.box.w, 7));
    }
    const [from, to] = [state.parts.get(before)?.box, state.parts.get(control)?.box];
    state.arrow.setAttribute("d", from && to && from !== to ? view.way(from, to) : "");
    state.rows.forEach((row, number_) => {
      row.classList.toggle("vm-now", number_ === state.leg);
      row.setAttribute("aria-current", number_ === state.leg ? "step" : "false");
    });
    const chosen = pane.details[state.part] ? state.part : pane.details[control] ? control : pane.boxes[0].name;
    const box = pane.boxes.find((each) => each.name === chosen);
    const rows = pane.details[chosen].map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
    const kill = button("end it", `kill-${state.index}`, () => view.ask({ type: "kill", pane: state.index, part: chosen }));
    state.detail.replaceChildren(make("div", { class: "vm-head" }, make("b", {}, box.label), make("code", {}, chosen), kill), make("table", {}, make("tbody", {}, ...rows)));
    state.detail.dataset.part = chosen;
    setText(state.say, leg ? `${state.leg + 1} of ${legs.length}: ${pane.boxes.find((each) => each.name === leg.part)?.label ?? leg.part}${leg.what ? `: ${leg.what}` : ""}. ${number(leg.cycles)} cycles${leg.times > 1 ? `, ${leg.times} times` : ""}, ${number(leg.total)} so far.`
      : `In control: ${pane.boxes.find((each) => each.name === pane.control)?.label ?? pane.control}. ${number(pane.cycles)} cycles so far.`);
  };

  view.way = (from, to) => {
    const x1 = from.x + from.w / 2, x2 = to.x + to.w / 2, down = to.y > from.y, level = to.y === from.y;
    const x = clamp(from.w > to.w ? x2 : x1, Math.max(from.x, to.x) + 6, Math.min(from.x + from.w, to.x + to.w) - 6);
    const overlap = Math.min(from.x + from.w, to.x + to.w) - Math.max(from.x, to.x) > 12;
    if (level) {
      const y = from.y + from.h / 2, right = to.x > from.x;
      return `M${right ? from.x + from.w : from.x} ${y}H${right ? to.x : to.x + to.w}m${right ? -7 : 7} -5l${right ? 7 : -7} 5l${right ? -7 : 7} 5`;
    }
    const y1 = down ? from.y + from.h : from.y, y2 = down ? to.y : to.y + to.h, tip = down ? -7 : 7;
    const [a, b] = overlap ? [x, x] : [x1, x2];
    return `M${a} ${y1}L${b} ${y2}m-5 ${tip}l5 ${-tip}l5 ${tip}`;
  };

  view.buildPane = (pane, index) => {
    const old = view.states[index];
    const state = { pane, index, part: old?.pane.name === pane.name ? old.part : null, leg: 0, rows: [] };
    if (old?.pane.name === pane.name && JSON.stringify(old.pane.journey) === JSON.stringify(pane.journey)) state.leg = old.leg;
    const facts = make("details", { class: "vm-facts" }, make("summary", {}, `What is documented of ${pane.name}`), make("ul", {}, ...pane.facts.map((text) => make("li", {}, text))));
    const results = Object.entries(pane.results).map(([name, line]) => make("span", { class: "vm-result" }, make("code", {}, name), ` ${line}`));
    state.say = make("p", { class: "vm-saying", "data-testid": `say-${index}`, "aria-live": "polite" });
    state.detail = make("div", { class: "vm-detail", "data-testid": `detail-${index}`, "aria-label": "The chosen part" });
    const note = make("p", { class: "vm-note", role: "alert", "data-testid": `note-${index}` }, pane.note);
    note.hidden = !pane.note;
    const picture = buildPicture(view, state);
    state.element = make("section", { class: "vm-pane", "data-pane": String(index), "aria-label": pane.name },
      buildHeader(view, pane, index), note, make("div", { class: "vm-picture" }, picture), state.say, state.detail,
      buildJourney(view, state), make("div", { class: "vm-results", "data-testid": `results-${index}` }, ...results), ...(pane.facts.length ? [facts] : []),
      make("details", { class: "vm-text" }, make("summary", {}, "All of it as text"), make("pre", { "data-testid": `text-${index}`, tabindex: "0" }, pane.text)));
    view.drawPane(state);
    return state;
  };

  view.rebuild = () => {
    const sent = feed.get("panes");
    if (!sent || !sent.panes || sent.serial === view.serial) return;
    view.stop();
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset : {};
    view.serial = sent.serial;
    view.names = sent.names;
    view.panes = sent.panes;
    view.states = sent.panes.map((pane, index) => view.buildPane(pane, index));
    // Side by side where the widest picture has room for that, else one below the other.
    const widest = Math.max(430, ...view.panes.map((pane) => pane.width * LEAST + 18));
    root.replaceChildren(make("div", { class: "vm-panes", style: `--widest: ${widest}px` }, ...view.states.map((state) => state.element)));
    root.setAttribute("aria-busy", "false");
    root.dataset.serial = sent.serial;
    if (focused.testid) root.querySelector(`[data-testid="${focused.testid}"]`)?.focus();
    else if (focused.part) root.querySelector(`[data-part="${focused.part}"]`)?.focus();
  };
  return view;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-layers", tabindex: "0", role: "group", "data-testid": "layers", "data-lm-suppress-shortcuts": "true", "aria-busy": "true",
    "aria-label": "Layer explorer: Tab goes to the parts, Enter chooses one; arrows step through an event's way" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This explorer has lost its kernel: run the cell again.");
    return;
  }
  const view = createView(root, feed);
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const index = Number(event.target.closest?.("[data-pane]")?.dataset.pane ?? 0);
    const state = view.states[index];
    if (!state?.pane.journey) return;
    const go = { ArrowLeft: state.leg - 1, ArrowRight: state.leg + 1, Home: 0, End: Infinity }[event.key];
    if (go !== undefined) view.go(state, go);
    else if (event.key === "p") view.play(state);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const rebuild = () => view.rebuild();
  feed.on("change:panes", rebuild);
  view.rebuild();
  feed.send({ type: "ready" });
  return () => {
    view.stop();
    feed.off?.("change:panes", rebuild);
  };
}

export default { render };
