// Circuits: layers follow one another from left to right, or from top to bottom where the width is small. Text keeps its size under zoom.
const TEXT = 12.5, LABEL = 48, STEP = 52, SHOWN = 120;
const VIEWS = {pair: "Side by side", difference: "Difference", all: "With the control"};

class Circuits {
  constructor(figure) {
    this.figure = figure;
    this.task = figure.dataset.task;
    this.map = data(figure, ".map");
    this.roles = Object.keys(this.map.kept);
    this.view = "pair";
    this.shown = Math.min(SHOWN, this.map.edges.length);
    this.place = html("div", {class: "maps"});
    this.legend = html("div", {class: "legend"});
    figure.prepend(this.controls(), this.legend, this.place);
    figure.saves = {svg: () => drawn(this.place.querySelectorAll("svg")), csv: () => this.csv()};
    atWidth(figure, () => this.draw());
  }

  controls() {
    const views = Object.entries(VIEWS).filter(([view]) => view !== "all" || this.roles.length > 2);
    this.buttons = views.map(([view, name]) => html("button", {type: "button", "aria-pressed": view === this.view, onclick: () => {
      this.view = view;
      this.buttons.forEach(one => one.setAttribute("aria-pressed", one.textContent === VIEWS[view]));
      this.draw();
    }}, name));
    this.count = html("output", {}, String(this.shown));
    const slider = html("input", {type: "range", min: 1, max: this.map.edges.length, value: this.shown, oninput: event => {
      this.shown = +event.target.value;
      this.count.textContent = this.shown;
      this.draw();
    }});
    return html("div", {class: "controls"}, html("span", {class: "group", role: "group", "aria-label": "View"}, ...this.buttons),
      html("label", {}, "strongest edges", slider, this.count));
  }

  draw() {
    const edges = this.map.edges.slice(0, this.shown), both = this.view === "difference";
    this.legend.replaceChildren(...(both ? [["shared", "shared"], ["arm", "ARM only", "7 4"], ["mdm", "MDM only"]] : [["for", "supports the answer"], ["against", "works against it"]])
      .map(([kind, words, dash]) => html("span", {}, svg("svg", {class: "map", width: 26, height: 8, style: "display:inline;width:26px;border:0", "aria-hidden": "true"},
        svg("path", {class: kind, d: "M1 4H25", "stroke-width": 3, "stroke-dasharray": dash})), words)));
    if (both) {
      const kinds = edges.filter(edge => edge.scores.arm !== undefined || edge.scores.mdm !== undefined).map(edge => {
        const kind = edge.scores.arm === undefined ? "mdm" : edge.scores.mdm === undefined ? "arm" : "shared";
        return {...edge, kind, score: edge.scores[kind === "mdm" ? "mdm" : "arm"]};
      });
      const counts = ["shared", "arm", "mdm"].map(kind => kinds.filter(edge => edge.kind === kind).length);
      this.place.replaceChildren(this.one(`${counts[0]} shared, ${counts[1]} ARM only, ${counts[2]} MDM only`, kinds));
      return;
    }
    const roles = this.view === "all" ? this.roles : this.roles.filter(role => role !== "control");
    this.place.replaceChildren(...roles.map(role => this.one(NAMES[role], edges.filter(edge => edge.scores[role] !== undefined)
      .map(edge => ({...edge, score: edge.scores[role], kind: edge.scores[role] < 0 ? "against" : "for"})), role)));
  }

  one(name, edges, role) {
    const zoom = new Zoom(() => drawMap(this, edges, zoom, name));
    const words = html("p", {class: "name"}, html("strong", {class: role || ""}, name), role ? ` · ${edges.length} edges drawn` : "");
    const place = html("div", {}, html("div", {class: "controls head"}, words, zoom.controls()), zoom.svg);
    new ResizeObserver(() => zoom.redraw()).observe(place);
    return place;
  }

  csv() {
    return csv([["writer", "reader", ...this.roles], ...this.map.edges.map(edge => [edge.writer, edge.reader, ...this.roles.map(role => edge.scores[role])])]);
  }
}

// A picture that can be magnified and moved: by its buttons, by dragging, and by the arrow keys.
class Zoom {
  constructor(draw) {
    Object.assign(this, {draw, by: 1, x: 0, y: 0, svg: svg("svg", {class: "map", role: "group", tabindex: 0})});
    this.svg.addEventListener("keydown", event => {
      const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (event.key === "+" || event.key === "-") this.to(this.by * (event.key === "+" ? 1.5 : 1 / 1.5));
      else if (move && this.by > 1) this.move(move[0] * 60, move[1] * 60);
      else return;
      event.preventDefault();
    });
    this.svg.addEventListener("pointerdown", event => { if (this.by > 1) this.from = [event.clientX, event.clientY]; });
    this.svg.addEventListener("pointermove", event => {
      if (!this.from) return;
      this.move(this.from[0] - event.clientX, this.from[1] - event.clientY);
      this.from = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointerleave"]) this.svg.addEventListener(end, () => { this.from = null; });
  }
  controls() {
    const button = (text, label, by) => html("button", {type: "button", "aria-label": label, onclick: () => this.to(by ? this.by * by : 1)}, text);
    return html("span", {class: "group"}, button("+", "Zoom in", 1.5), button("−", "Zoom out", 1 / 1.5), button("1:1", "Whole picture", 0));
  }
  to(by) {
    const centre = [this.x + this.width / this.by / 2, this.y + this.height / this.by / 2];
    this.by = Math.min(8, Math.max(1, by));
    [this.x, this.y] = [centre[0] - this.width / this.by / 2, centre[1] - this.height / this.by / 2];
    this.draw();
  }
  move(dx, dy) {
    this.x += dx / this.by;
    this.y += dy / this.by;
    this.frame();
  }
  redraw() {
    const width = Math.floor(this.svg.clientWidth);
    if (width && width !== this.width) { this.width = width; this.draw(); }
  }
  frame() {
    const [w, h] = [this.width / this.by, this.height / this.by];
    this.x = Math.min(this.width - w, Math.max(0, this.x));
    this.y = Math.min(this.height - h, Math.max(0, this.y));
    fill(this.svg, {viewBox: `${this.x} ${this.y} ${w} ${h}`, height: this.height}, []);
    this.svg.classList.toggle("zoomed", this.by > 1);
  }
}

function drawMap(circuits, edges, zoom, name) {
  const {layers, heads} = circuits.map, columns = layers + 2, rows = heads + 1, width = zoom.width;
  if (!width) return;
  // Flow downwards where a layer would be narrower than its label, but only if the heads then fit side by side.
  const down = width / columns < LABEL + 8 && width / rows > width / columns;
  const along = down ? STEP + 8 : width / columns, across = down ? width / rows : Math.max(30, Math.min(STEP, 420 / rows));
  zoom.height = down ? along * columns + 8 : across * rows + 34;
  const at = id => {
    const end = id === "input" ? -1 : id === "logits" ? layers : null;
    const layer = end ?? parseInt(id.slice(1), 10), row = end !== null ? (rows - 1) / 2 : id[0] === "m" ? heads : +id.split(".h")[1];
    return down ? [(row + 0.5) * across, (layer + 1.5) * along + 4] : [(layer + 1.5) * along, (row + 0.5) * across + 26];
  };
  const room = Math.min(along, down ? across : along) * zoom.by, labelled = room >= LABEL && (down ? along : across) * zoom.by >= 18;
  const size = TEXT / zoom.by, box = [Math.min(LABEL / zoom.by, room / zoom.by * 0.8), Math.min(20 / zoom.by, across * 0.7)];
  const most = Math.max(...edges.map(edge => Math.abs(edge.score)), 1e-12);
  const parts = new Map(), lines = svg("g", {}), nodes = svg("g", {});
  for (const edge of [...edges].reverse()) {
    const share = Math.sqrt(Math.abs(edge.score) / most);
    for (const target of edge.into) {
      lines.append(svg("path", {
        class: edge.kind, d: curve(at(edge.writer), at(target), down, box), "stroke-width": (0.6 + 4.4 * share) / Math.sqrt(zoom.by),
        opacity: 0.25 + 0.65 * share, "stroke-dasharray": edge.kind === "arm" ? `${7 / zoom.by} ${4 / zoom.by}` : null, "data-ends": `${edge.writer} ${target}`,
      }, svg("title", {}, `${edge.writer} → ${edge.reader}: ${Object.entries(edge.scores).map(([role, score]) => `${NAMES[role]} ${score > 0 ? "+" : ""}${score}`).join(", ")}`)));
      parts.set(edge.writer, true).set(target, true);
    }
  }
  for (const id of parts.keys()) {
    const [x, y] = at(id), page = `${circuits.task}-${id}`, linked = document.getElementById(page);
    const node = svg(linked ? "a" : "g", linked ? {href: "#" + page, "aria-label": `${id}: its own section`} : {},
      svg("rect", {x: x - box[0] / 2, y: y - box[1] / 2, width: box[0], height: box[1], rx: 4 / zoom.by, "stroke-width": 1 / zoom.by}), svg("title", {}, id));
    if (labelled) node.append(svg("text", {x, y, "font-size": size}, id));
    const pick = on => {
      zoom.svg.classList.toggle("picked", on);
      lines.querySelectorAll("path").forEach(line => line.classList.toggle("on", on && line.dataset.ends.split(" ").includes(id)));
    };
    for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) node.addEventListener(event, () => pick(on));
    nodes.append(node);
  }
  const every = Math.max(1, Math.ceil(30 / (along * zoom.by))), numbers = svg("g", {"aria-hidden": "true"});
  if (!down) for (let layer = 0; layer < layers; layer += every) numbers.append(svg("text", {class: "layer", x: (layer + 1.5) * along, y: 12 / zoom.by, "font-size": size}, `${layer ? "" : "layer "}${layer}`));
  fill(zoom.svg, {"aria-label": `Circuit, ${name}: ${edges.length} edges between ${parts.size} components; each leads to its section`}, []);
  zoom.svg.replaceChildren(lines, nodes, numbers);
  zoom.frame();
}

function curve([x0, y0], [x1, y1], down, box) {
  const half = down ? box[1] / 2 : box[0] / 2, gap = down ? y1 - y0 : x1 - x0;
  if (gap < half) { // a head to its own layer's MLP: around the side
    const out = half * 2.2;
    return down ? `M${x0} ${y0 + half}C${x0} ${y0 + out * 1.6} ${x1} ${y1 + out * 1.6} ${x1} ${y1 + half}` : `M${x0 + half} ${y0}C${x0 + out} ${y0} ${x1 + out} ${y1} ${x1 + half} ${y1}`;
  }
  const reach = gap / 2, bow = Math.abs(down ? x1 - x0 : y1 - y0) < 4 && gap > 4 * half ? half * 1.2 : 0;
  return down
    ? `M${x0} ${y0 + half}C${x0 + bow} ${y0 + reach} ${x1 + bow} ${y1 - reach} ${x1} ${y1 - half}`
    : `M${x0 + half} ${y0}C${x0 + reach} ${y0 + bow} ${x1 - reach} ${y1 + bow} ${x1 - half} ${y1}`;
}

document.querySelectorAll("figure.circuits").forEach(figure => new Circuits(figure));
