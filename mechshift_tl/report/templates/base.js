// Elements, widths and downloads. Texts of the study become text nodes, never markup.
const SVG = "http://www.w3.org/2000/svg";
const isDark = () => document.documentElement.dataset.theme === "dark";
const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};
const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const data = (node, selector) => JSON.parse(node.querySelector(selector).textContent);
const NAMES = {arm: "ARM", mdm: "MDM", control: "control"};

// Calls `draw(width)` when the element is first seen with a width, and again when the width changes.
function atWidth(element, draw) {
  let last = 0, waiting = 0;
  new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (!width || width === last) return;
    last = width;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => draw(width));
  }).observe(element);
}

function save(name, text, kind) {
  const link = html("a", {href: URL.createObjectURL(new Blob([text], {type: kind})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
const cell = value => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = rows => rows.map(row => row.map(cell).join(",")).join("\n") + "\n";

// A drawing of ours as a file: what style sheets say of it is written into it, several drawings one below the other.
const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];
function drawn(nodes) {
  let below = 0, width = 0;
  const sheet = svg("svg", {xmlns: SVG});
  for (const node of nodes) {
    const copy = node.cloneNode(true), from = [node, ...node.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    from.forEach((one, i) => {
      const seen = getComputedStyle(one);
      to[i].setAttribute("style", STYLED.map(name => `${name}:${seen.getPropertyValue(name)}`).join(";"));
    });
    const box = node.getBoundingClientRect();
    fill(copy, {x: 0, y: below, width: box.width, height: box.height}, []);
    sheet.append(copy);
    below += box.height + 12;
    width = Math.max(width, box.width);
  }
  const paper = svg("rect", {width, height: below, fill: getComputedStyle(document.body).backgroundColor});
  sheet.prepend(paper);
  fill(sheet, {width, height: below, viewBox: `0 0 ${width} ${below}`}, []);
  return new XMLSerializer().serializeToString(sheet);
}
// Each figure says how it is saved: `figure.saves = {svg: () => text, csv: () => text}`.
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  const figure = button.closest("figure"), kind = button.dataset.save;
  const name = (figure.querySelector(".plot")?.id || figure.id || figure.closest("[id]").id) + "." + kind;
  save(name, await figure.saves[kind](), kind === "svg" ? "image/svg+xml" : "text/csv");
});
