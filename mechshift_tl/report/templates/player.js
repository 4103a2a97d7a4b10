// Steps through a denoising run.
class Player {
  constructor(figure) {
    this.run = data(figure, ".played");
    this.step = 0;
    this.mask = 0;
    this.head = 0;
    this.steps = this.run.canvases.length - 1;
    this.slider = html("input", {type: "range", min: 0, max: this.steps, value: 0, "aria-label": "Step", oninput: () => this.go(+this.slider.value)});
    this.said = html("span", {"aria-live": "polite"});
    this.button = html("button", {type: "button", onclick: () => this.play()}, "Play");
    const heads = html("select", {onchange: event => { this.head = +event.target.value; this.draw(); }}, ...this.run.heads.map((head, i) => html("option", {value: i}, head)));
    this.tape = html("div", {class: "tape"});
    this.lens = html("table", {});
    this.list = html("table", {});
    const step = (text, label, by) => html("button", {type: "button", "aria-label": label, onclick: () => this.go(this.step + by)}, text);
    figure.prepend(
      html("div", {class: "controls moves"}, step("‹", "Step back", -1), this.button, step("›", "Step on", 1), this.slider, this.said),
      html("div", {class: "controls"}, html("label", {}, "attention of", heads)),
      this.tape, html("div", {class: "sides"}, html("div", {}, this.lens), html("div", {}, this.list)));
    figure.saves = {csv: () => this.csv(), svg: () => drawn([this.picture()])};
    this.draw();
  }

  go(step) {
    this.step = Math.min(this.steps, Math.max(0, step));
    this.slider.value = this.step;
    const next = this.run.commits.indexOf(this.step);
    if (next >= 0) this.mask = next;
    this.draw();
  }

  play() {
    if (this.clock) return this.stop();
    if (this.step === this.steps) this.go(0);
    this.button.textContent = "Pause";
    this.clock = setInterval(() => this.step < this.steps ? this.go(this.step + 1) : this.stop(), 900);
  }
  stop() {
    clearInterval(this.clock);
    this.clock = null;
    this.button.textContent = "Play";
  }

  draw() {
    const {canvases, positions, commits, confidence, depths, lens, attention} = this.run;
    const row = canvases[this.step], at = Math.min(this.step, this.steps - 1), looks = attention[at]?.[this.head]?.[this.mask] || [];
    this.said.textContent = this.step < this.steps ? `step ${this.step} of ${this.steps}` : `done after ${this.steps} ${this.steps === 1 ? "step" : "steps"}`;
    this.tape.replaceChildren(...row.map((token, pos) => {
      const mask = positions.indexOf(pos), fresh = mask >= 0 && commits[mask] === this.step - 1 && token !== null;
      const kind = ["cell", token === null ? "open" : "", fresh ? "fresh" : "", mask === this.mask ? "chosen" : ""].join(" ");
      const shade = {style: `background: color-mix(in srgb, var(--mdm) ${Math.round(45 * (looks[pos] || 0))}%, var(--lift))`};
      if (mask < 0) return html("span", {class: kind, ...shade}, token);
      const label = `position ${pos}: ${token === null ? "masked" : `${token}, written at step ${commits[mask]} with probability ${confidence[mask]}`}`;
      return html("button", {type: "button", class: kind, "aria-label": label, "aria-pressed": mask === this.mask, ...shade, onclick: () => { this.mask = mask; this.draw(); }}, token ?? "▢");
    }));
    const bars = (words, shares) => words.map(([name, text], i) => html("tr", {}, html("th", {scope: "row"}, name), html("td", {}, html("code", {}, text)),
      html("td", {class: "meter-of"}, html("span", {class: "meter", style: `width: ${Math.round(100 * shares[i])}%`})), html("td", {class: "r"}, shares[i].toFixed(2))));
    const said = lens[at][this.mask];
    this.lens.replaceChildren(html("caption", {}, `Lens at position ${positions[this.mask]}, step ${at}`), html("tbody", {}, ...bars(depths.map((depth, i) => [depth, said[i][0]]), said.map(one => one[1]))));
    const order = commits.map((step, mask) => [step, mask]).filter(([step]) => step >= 0 && step < this.step).sort((a, b) => a[0] - b[0]);
    this.list.replaceChildren(html("caption", {}, order.length ? "Written so far, with the probability at that step" : "Nothing is written yet"),
      html("tbody", {}, ...bars(order.map(([step, mask]) => [`step ${step}`, canvases[step + 1][positions[mask]]]), order.map(([, mask]) => confidence[mask]))));
  }

  // All canvases as one picture, a row per step.
  picture() {
    const {canvases, positions} = this.run, width = 72, height = 24;
    const rows = canvases.map((row, i) => svg("g", {}, svg("text", {x: 4, y: i * height + 16, "font-size": 13}, String(i)), ...positions.map((pos, j) =>
      svg("text", {x: 40 + j * width, y: i * height + 16, "font-size": 13}, row[pos] ?? "▢"))));
    const size = [50 + positions.length * width, canvases.length * height + 8];
    const sheet = svg("svg", {width: size[0], height: size[1], style: "position:absolute;left:-9999px;fill:var(--ink);font-family:var(--mono)"}, ...rows);
    document.body.append(sheet);
    setTimeout(() => sheet.remove(), 0);
    return sheet;
  }

  csv() {
    const rows = [["step", "position", "token", "committed", "confidence"]];
    this.run.canvases.forEach((row, step) => this.run.positions.forEach((pos, mask) => rows.push([step, pos, row[pos], this.run.commits[mask], this.run.confidence[mask]])));
    return csv(rows);
  }
}

document.querySelectorAll("figure.player").forEach(figure => new Player(figure));
