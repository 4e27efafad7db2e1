// What every widget's module begins with: vmlab/widgets/assets.py puts this file before each of them.

const SVG = "http://www.w3.org/2000/svg";

// What a double cannot hold exactly comes as hexadecimal text.
const hex = (value, digits = 8) => (typeof value === "string" ? value : (value < 0 ? value >>> 0 : value).toString(16)).padStart(digits, "0");
const number = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The feed is the core model through which the kernel speaks.
async function feedOf(model) {
  return model.widget_manager.get_model(model.get("feed").replace("IPY_MODEL_", ""));
}

function reducedMotion() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}

// Transport: what a button shows, and a button that shows it.
const ICONS = {
  first: "M3 3v10M13 3L6 8l7 5z", last: "M13 3v10M3 3l7 5-7 5z", back: "M11 3L5 8l6 5z", step: "M5 3l6 5-6 5z",
  play: "M4 2.5l9 5.5-9 5.5z", pause: "M4 3h3v10H4zM9 3h3v10H9z",
  previous: "M9 3.5L4.5 8 9 12.5", next: "M7 3.5L11.5 8 7 12.5",
};

function iconButton(name, label, key) {
  const icon = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  icon.append(draw("path", { d: ICONS[name] }));
  return make("button", { type: "button", class: `vm-button vm-${name}`, "data-testid": name, "aria-label": label, title: `${label} (${key})` }, icon);
}

function select(name, label, options, value, change) {
  const box = make("select", { "data-testid": name, "aria-label": label });
  for (const [key, text] of options) box.append(new Option(text, key, false, key === value));
  box.addEventListener("change", () => change(box.value));
  return make("label", { class: "vm-choice" }, make("span", {}, label), box);
}
