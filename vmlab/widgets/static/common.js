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
