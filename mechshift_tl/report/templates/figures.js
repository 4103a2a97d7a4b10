// Figures are drawn when they are first seen: in the page's colours, and with their panels in as many columns as have room.
const PANEL = 176, GAP_X = 64, GAP_Y = 84, NARROW = 600, SMALLEST = 12;

function themed(text) {
  if (!isDark()) return JSON.parse(text);
  for (const [light, dark] of Object.entries(DARK)) {
    text = text.replaceAll(`"${light}"`, `"${dark}"`);
    if (light[0] === "#") text = text.replaceAll(`rgba(${rgb(light)},`, `rgba(${rgb(dark)},`);
  }
  return JSON.parse(text);
}
const rgb = colour => [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16)).join(",");

function panels(layout) {
  const keys = Object.keys(layout).filter(key => /^yaxis\d*$/.test(key) && layout["x" + key.slice(1)]);
  const found = keys.map(key => ({key: "y" + key.slice(5), x: layout["x" + key.slice(1)], y: layout[key]})).filter(one => one.x.domain && one.y.domain);
  return found.sort((a, b) => b.y.domain[1] - a.y.domain[1] || a.x.domain[0] - b.x.domain[0]);
}

// How many of a figure's columns the width holds: all, or as many as divide them evenly.
function columnsIn(width, columns, rows) {
  const room = Math.max(1, Math.floor((width + GAP_X) / (PANEL + GAP_X)));
  if (columns <= room) return columns;
  const even = [...Array(room).keys()].map(i => room - i).find(count => columns % count === 0);
  return rows > 1 ? even : room;
}

// Puts the panels of a wide figure below one another where the width does not hold them side by side.
function fitted(data, layout, width) {
  Object.assign(layout, {width, autosize: false});
  for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key) && layout[key].tickfont?.size < SMALLEST) layout[key].tickfont.size = SMALLEST;
  const all = panels(layout), starts = one => new Set(all.map(panel => panel[one].domain[0].toFixed(3))).size;
  const inner = width - 60, columns = columnsIn(inner, starts("x"), starts("y"));
  if (all.length < 2 || (columns === starts("x") && (width > NARROW || starts("y") === 1))) return layout;
  const titles = (layout.annotations || []).filter(one => one.xref === "paper" && one.yref === "paper");
  const margin = Object.assign({t: 34, b: 48}, layout.margin), gap = width > NARROW ? GAP_Y : GAP_Y + 30;
  const old = (layout.height - margin.t - margin.b) * (all[0].y.domain[1] - all[0].y.domain[0]);
  const height = Math.max(old, 190), rows = Math.ceil(all.length / columns), whole = rows * height + (rows - 1) * gap;
  const wide = (1 - (columns - 1) * GAP_X / inner) / columns;
  const moved = all.map((one, i) => {
    const [left, right] = one.x.domain, top = one.y.domain[1];
    const title = titles.find(it => Math.abs(it.x - (left + right) / 2) < 0.01 && Math.abs(it.y - top) < 0.01);
    return {...one, title, left: i % columns * (wide + GAP_X / inner), top: 1 - Math.floor(i / columns) * (height + gap) / whole};
  });
  for (const {x, y, title, left, top} of moved) { // only now, since a title is found by its old place
    x.domain = [left, left + wide];
    y.domain = [Math.max(0, top - height / whole), top];
    if (title) Object.assign(title, {x: left + wide / 2, y: top});
    if (y.matches && y.showticklabels === false) y.showticklabels = true;
  }
  layout.height = whole + margin.t + margin.b;
  if (layout.legend && titles.length) layout.legend.y = 1 + 26 / whole;
  for (const scale of Object.keys(layout).filter(key => key.startsWith("coloraxis"))) {
    const of = data.find(trace => trace.coloraxis === scale)?.yaxis || "y", beside = moved.find(one => one.key === of) || moved[0];
    Object.assign(layout[scale].colorbar ||= {}, {lenmode: "pixels", len: Math.min(height, 240), y: beside.top, yanchor: "top"});
  }
  return layout;
}

async function draw(plot, width) {
  const {data, layout} = themed(document.getElementById("spec-" + plot.id).textContent);
  await Plotly.react(plot, data, fitted(data, layout, width), {displayModeBar: false, responsive: false});
  // The picture is described as a whole; what is in it is not for the keyboard.
  plot.querySelectorAll("a, [tabindex]").forEach(one => one.setAttribute("tabindex", -1));
}

function points(plot) {
  const rows = [["trace", "x", "y", "z", "text"]];
  for (const trace of plot._fullData) {
    const {x = [], y = [], z} = trace, text = trace.text || trace.hovertext || [];
    if (trace.visible === false || (!z && x[0] === null)) continue;
    if (z) Array.from(z).forEach((row, i) => Array.from(row).forEach((value, j) => rows.push([trace.name, x[j] ?? j, y[i] ?? i, value, text[i]?.[j]])));
    else Array.from(y.length ? y : x).forEach((_, i) => rows.push([trace.name, x[i], y[i], "", Array.isArray(text) ? text[i] : text]));
  }
  return csv(rows);
}

for (const plot of document.querySelectorAll(".plot")) {
  atWidth(plot, width => draw(plot, width));
  addEventListener("theme", () => plot.clientWidth && draw(plot, plot.clientWidth));
  plot.closest("figure").saves = {
    svg: async () => decodeURIComponent((await Plotly.toImage(plot, {format: "svg"})).split(",").slice(1).join(",")),
    csv: () => points(plot),
  };
}
