// A head's attention on one prompt, a square per model.
const SIDE = 300;

function pattern(values, tokens, role) {
  const n = values.length, step = SIDE / n;
  const cells = values.flatMap((row, i) => row.map((value, j) => value < 0.01 ? null : svg("rect", {
    x: (j * step).toFixed(2), y: (i * step).toFixed(2), width: step.toFixed(2), height: step.toFixed(2), style: "fill: var(--ink)", opacity: value,
  }, svg("title", {}, `${tokens[i]} → ${tokens[j]}: ${value.toFixed(2)}`))).filter(Boolean));
  return svg("svg", {viewBox: `0 0 ${SIDE} ${SIDE}`, width: SIDE, height: SIDE, role: "img", "aria-label": `Attention in the ${NAMES[role]}, ${n} by ${n} tokens`},
    svg("rect", {width: SIDE, height: SIDE, style: "fill: none; stroke: var(--rule)"}), ...cells);
}

for (const figure of document.querySelectorAll("figure.attention")) {
  const place = html("div", {class: "grids"}), found = () => JSON.parse(document.getElementById(figure.dataset.patterns).textContent);
  figure.prepend(place);
  let made = false;
  atWidth(figure, () => {
    if (made) return;
    made = true;
    const {tokens, patterns} = found();
    for (const [role, heads] of Object.entries(patterns))
      place.append(html("div", {}, html("p", {}, html("strong", {class: role}, NAMES[role])), pattern(heads[figure.dataset.head], tokens[role], role)));
  });
  figure.saves = {svg: () => drawn(place.querySelectorAll("svg")), csv: () => {
    const {tokens, patterns} = found(), rows = [["model", "query", "key", "query token", "key token", "attention"]];
    for (const [role, heads] of Object.entries(patterns))
      heads[figure.dataset.head].forEach((row, i) => row.forEach((value, j) => rows.push([NAMES[role], i, j, tokens[role][i], tokens[role][j], value])));
    return csv(rows);
  }};
}
