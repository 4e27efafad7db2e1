// The VMCS inspector: the fields of a guest's control block by group; a value that is typed is tried by the kernel on a copy.
//
// It holds no truth: an edit is a question to the kernel, which answers with a verdict. State comes through a plain core model,
// the feed (traits block, verdict), as for the stage: see stage.js.

function buildHeader(view, block) {
  const bar = make("header", { class: "vm-toolbar" }, make("strong", { class: "vm-title" }, block.title));
  if (block.exits) {
    for (const [name, label, key, forwards] of [["previous", "Previous exit", "p", false], ["next", "Next exit", "n", true]]) {
      const button = iconButton(name, label, key);
      button.addEventListener("click", () => view.goExit(forwards));
      bar.append(button);
    }
  }
  const search = make("input", { type: "search", "data-testid": "search", "aria-label": "Search fields", placeholder: "search (/)", spellcheck: "false" });
  search.value = view.query;
  search.addEventListener("input", () => { view.query = search.value; view.filter(); });
  const only = make("input", { type: "checkbox", "data-testid": "only" });
  only.checked = view.only;
  only.addEventListener("change", () => { view.only = only.checked; view.filter(); });
  const found = make("output", { class: "vm-found", "data-testid": "found" });
  bar.append(search, make("label", { class: "vm-choice" }, only, "changed only"), found);
  view.found = found;
  return bar;
}

function buildRow(view, field) {
  const changed = field.was !== "";
  const mark = make("span", { class: "vm-mark", title: changed ? "changed" : "" }, changed ? "●" : "");
  if (changed) mark.append(make("span", { class: "vm-hidden" }, " changed"));
  const name = make("th", { scope: "row" }, mark, make("code", {}, field.name), make("small", {}, ` ${field.place}, ${field.bits} bits`));
  const value = make("td", { class: "vm-value" });
  const row = { field, said: make("td", { class: "vm-said" }), input: null, error: make("div", { class: "vm-wrong", role: "alert" }) };
  if (field.locked) value.append(make("code", { "data-value": field.name }, field.value));
  else {
    row.input = make("input", {
      type: "text", "data-field": field.name, "aria-label": `Value of ${field.name}`, spellcheck: "false", autocomplete: "off", size: String(2 + field.bits / 4),
    });
    row.input.value = field.value;
    row.input.addEventListener("change", () => view.edit(field, row.input.value));
    value.append(row.input);
  }
  const was = make("td", { class: "vm-was" }, changed ? make("code", {}, field.was) : "");
  row.element = make("tr", { "data-row": field.name, class: changed ? "vm-changed" : "" }, name, value, row.said, was);
  row.said.append(make("span", {}, field.said), row.error);
  row.text = `${field.name} ${field.place} ${field.said}`.toLowerCase();
  return row;
}

function buildGroup(view, group) {
  const rows = group.fields.map((field) => buildRow(view, field));
  const changed = group.fields.filter((field) => field.was !== "").length;
  const head = make("thead", {}, make("tr", {}, ...["field", "value", "says", "before"].map((text) => make("th", { scope: "col" }, text))));
  const table = make("table", {}, head, make("tbody", {}, ...rows.map((row) => row.element)));
  const count = make("span", { class: "vm-count" });
  const summary = make("summary", {}, make("b", {}, group.name), count);
  const element = make("details", { class: "vm-group", "data-group": group.name }, summary, make("div", { class: "vm-scroll" }, table));
  element.open = view.open.get(group.name) ?? changed > 0;
  element.addEventListener("toggle", () => { if (!view.filtering) view.open.set(group.name, element.open); });
  return { element, rows, changed, count, name: group.name };
}

function createView(root, feed) {
  const view = { root, feed, query: "", only: false, open: new Map(), edits: {}, groups: [], serial: 0, filtering: false };

  view.ask = (message) => {
    root.setAttribute("aria-busy", "true");
    feed.send(message);
  };
  view.goExit = (forwards) => view.ask({ type: "exit", forwards });
  view.edit = (field, text) => {
    if (text.trim() === "" || text.trim() === field.value) delete view.edits[field.name];
    else view.edits[field.name] = text;
    view.ask({ type: "try", edits: view.edits });
  };
  view.undo = () => {
    view.edits = {};
    for (const group of view.groups) for (const row of group.rows) if (row.input) row.input.value = row.field.value;
    view.ask({ type: "try", edits: {} });
  };

  view.filter = () => {
    const words = view.query.trim().toLowerCase();
    const narrowed = words !== "" || view.only;
    let shown = 0;
    view.filtering = true;
    for (const group of view.groups) {
      let count = 0;
      for (const row of group.rows) {
        const edited = row.field.name in view.edits;
        row.element.hidden = !((row.text.includes(words) && (!view.only || row.field.was !== "")) || edited);
        count += row.element.hidden ? 0 : 1;
      }
      shown += count;
      group.element.hidden = count === 0;
      group.element.open = narrowed ? count > 0 : view.open.get(group.name) ?? group.changed > 0;
      const changed = group.changed ? `, ${group.changed} changed` : "";
      setText(group.count, ` ${narrowed ? `${count} of ` : ""}${group.rows.length} fields${changed}`);
    }
    setText(view.found, narrowed ? `${shown} found` : "");
    setTimeout(() => { view.filtering = false; }, 0);
  };

  view.rebuild = () => {
    const block = feed.get("block");
    if (!block || !block.groups || block.serial === view.serial) return;
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset : {};
    view.serial = block.serial;
    view.edits = {};
    view.groups = block.groups.map((group) => buildGroup(view, group));
    view.mark = make("span", { class: "vm-verdict-mark", "aria-hidden": "true" });
    view.outcome = make("p", { "data-testid": "outcome" });
    view.demands = make("p", { class: "vm-demands" });
    view.rules = make("ul", { "data-testid": "rules" });
    const undo = make("button", { type: "button", class: "vm-button", "data-testid": "undo" }, "Undo edits");
    undo.addEventListener("click", view.undo);
    view.undoButton = undo;
    const verdict = make("section", { class: "vm-verdict", "data-testid": "verdict", "aria-live": "polite", "aria-label": "What a VM entry would come to" },
      make("div", { class: "vm-say" }, view.mark, view.outcome, undo), view.demands, view.rules);
    view.verdict = verdict;
    root.replaceChildren(
      buildHeader(view, block),
      make("div", { class: "vm-summary", "data-testid": "summary" }, ...block.summary.map((line) => make("p", {}, line))),
      make("div", { class: "vm-groups" }, ...view.groups.map((group) => group.element)),
      verdict,
      make("details", { class: "vm-text" }, make("summary", {}, "All of it as text"), make("pre", { "data-testid": "text", tabindex: "0" }, block.text)),
    );
    root.setAttribute("aria-label", `${block.title}: n and p go to the next and previous exit, slash to the search; Enter tries a value`);
    root.dataset.serial = block.serial;
    view.filter();
    view.judge();
    if (focused.testid && focused.testid !== "vmcs") root.querySelector(`[data-testid="${focused.testid}"]`)?.focus();
    else if (focused.testid || focused.field) root.focus();
  };

  view.judge = () => {
    const verdict = feed.get("verdict");
    root.setAttribute("aria-busy", "false");
    if (!view.verdict || !verdict || !verdict.outcome) return;
    for (const group of view.groups) {
      for (const row of group.rows) {
        const { name } = row.field;
        const wrong = verdict.wrong[name] || "";
        const edited = name in verdict.edits;
        row.element.classList.toggle("vm-edited", edited || wrong !== "");
        if (row.input) row.input.setAttribute("aria-invalid", String(wrong !== ""));
        setText(row.error, wrong);
        setText(row.said.firstChild, edited ? `✎ ${verdict.said[name] || "edited"}` : row.field.said);
        if (edited && row.input && document.activeElement !== row.input) row.input.value = verdict.edits[name];
        if (edited) view.edits[name] ??= verdict.edits[name];
      }
    }
    const wrong = Object.keys(verdict.wrong).length;
    setText(view.mark, verdict.note || wrong ? "!" : verdict.ok ? "✓" : "✕");
    view.verdict.dataset.verdict = verdict.note || wrong ? "note" : verdict.ok ? "good" : "bad";
    const before = verdict.edited ? `With ${verdict.edited} edited field${verdict.edited === 1 ? "" : "s"}: ` : "As it is: ";
    setText(view.outcome, verdict.note || (wrong ? `${Object.values(verdict.wrong).join("; ")}` : `${before}${verdict.ok ? "" : "refused, "}${verdict.outcome}`));
    view.rules.replaceChildren(...verdict.rules.map(([section, text]) => make("li", {}, make("b", {}, section), ` ${text}`)),
      ...(verdict.untried ? [make("li", {}, `not tried: ${verdict.untried}`)] : []));
    setText(view.demands, verdict.rules.length ? `Broken, of what the ${verdict.manual} demands:` : "");
    view.undoButton.hidden = !verdict.edited && !wrong;
    root.dataset.verdict = verdict.serial;
  };
  return view;
}

async function render({ model, el }) {
  const root = make("div", { class: "vmlab-vmcs", tabindex: "0", role: "group", "data-testid": "vmcs", "data-lm-suppress-shortcuts": "true", "aria-busy": "true" });
  el.append(root);
  let feed = null;
  try {
    feed = await feedOf(model);
  } catch {
    root.append("This inspector has lost its kernel: run the cell again.");
    return;
  }
  const view = createView(root, feed);
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    const block = feed.get("block");
    if (event.key === "/") root.querySelector("[data-testid=search]")?.focus();
    else if ((event.key === "n" || event.key === "p") && block?.exits) view.goExit(event.key === "n");
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const rebuild = () => view.rebuild();
  const judge = () => view.judge();
  feed.on("change:block", rebuild);
  feed.on("change:verdict", judge);
  view.rebuild();
  feed.send({ type: "ready" });
  return () => {
    feed.off?.("change:block", rebuild);
    feed.off?.("change:verdict", judge);
  };
}

export default { render };
