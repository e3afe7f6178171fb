"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const ticks = data.certainty.length;
const each = ticks / data.looks.length;
const perRound = ticks / data.rounds;
const shown = { attention: true, walk: true, peaks: true };
/* The head that is shown by itself; null: all of them together. */
let chosen = null;
let now = data.taken[data.taken.length - 1];
let timer = null;
let ink = {};

/* Arrays: 16-bit whole numbers in base64, times a scale. */
function unpack(packed) {
  if (packed === null) return null;
  const bytes = Uint8Array.from(atob(packed.data), (one) => one.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = view.getInt16(2 * i, true) * packed.scale;
  return { shape: packed.shape, values };
}

const probabilities = unpack(data.probabilities);
const pre = unpack(data.pre);
const post = unpack(data.post);
const synchrony = unpack(data.synchronisation);
const positions = probabilities.shape[1], classes = probabilities.shape[2];
const looks = data.looks.map((look) => {
  const attention = unpack(look.attention), on_way = unpack(look.on_way);
  const image = look.picture === null ? null : new Image();
  if (image) { image.onload = draw; image.src = look.picture; }
  return { ...look, attention, on_way, image, ...peaks(attention) };
});

function peaks(attention) {
  if (attention === null) return {};
  const [times, heads, places] = attention.shape;
  const mean = new Float32Array(times * places);
  let peak = 0, peakOfMean = 0;
  for (let t = 0; t < times; t++) for (let p = 0; p < places; p++) {
    let sum = 0;
    for (let h = 0; h < heads; h++) {
      const weight = attention.values[(t * heads + h) * places + p];
      peak = Math.max(peak, weight);
      sum += weight;
    }
    mean[t * places + p] = sum / heads;
    peakOfMean = Math.max(peakOfMean, sum / heads);
  }
  return { mean, peak, peakOfMean };
}

/* Weights of the places of an input at a tick, of the chosen head or of all. */
function weightsOf(look, inside) {
  if (look.attention === null) return null;
  const [, heads, places] = look.attention.shape;
  const first = (inside * heads + chosen) * places;
  if (chosen !== null) return look.attention.values.subarray(first, first + places);
  return look.mean.subarray(inside * places, (inside + 1) * places);
}

const peakOf = (look) => (chosen === null ? look.peakOfMean : look.peak);
const whose = () => (chosen === null ? "all heads together" : "head " + (chosen + 1));

/* Places are numbered row by row. */
function most(weights) {
  let best = 0;
  for (let p = 1; p < weights.length; p++) if (weights[p] > weights[best]) best = p;
  return best;
}

/* Rising numbers as people write them: 1-3, 8. */
function ranges(numbers) {
  const runs = [];
  for (const one of numbers) {
    const last = runs[runs.length - 1];
    if (last && one === last[1] + 1) last[1] = one;
    else runs.push([one, one]);
  }
  return runs.map(([from, to]) => (from === to ? String(from) : from + "-" + to)).join(", ");
}

/* From light to dark over the ticks. */
function shade(tick) {
  const from = [177, 151, 252], to = [95, 61, 196], part = each > 1 ? tick / (each - 1) : 1;
  return `rgb(${from.map((one, i) => Math.round(one + (to[i] - one) * part))})`;
}

function probability(tick, position, kind) {
  return probabilities.values[(tick * positions + position) * classes + kind];
}

function likeliest(tick, position) {
  let best = 0;
  for (let k = 1; k < classes; k++)
    if (probability(tick, position, k) > probability(tick, position, best)) best = k;
  return best;
}

/* Colours come from the style sheet, so that light and dark differ there alone. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  ink = {};
  for (const name of ["card", "ink", "muted", "line", "accent", "heat", "good", "bad", "below",
    "above", "track"]) ink[name] = style.getPropertyValue("--" + name).trim();
}

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function font(size, weight) {
  return (weight || 400) + " " + size + 'px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
}

/* An input with attention over it. */
function drawLook(canvas, look, weights, peak, full) {
  const [rows, columns] = look.grid;
  const tall = look.image ? look.size[0] / look.size[1] : (rows * 0.62) / Math.max(columns, 3);
  const most = full ? 460 : 260;
  const height = Math.min(canvas.clientWidth * tall, look.image ? 1e9 : most);
  const { pen, width } = prepare(canvas, height);
  const wide = width / (look.image ? columns : Math.max(columns, 3)), high = height / rows;
  if (look.image) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(look.image, 0, 0, width, height);
  }
  const heat = rgb(ink.heat);
  for (let place = 0; place < rows * columns; place++) {
    const x = (place % columns) * wide, y = Math.floor(place / columns) * high;
    const label = look.labels[place];
    if (!look.image && label === undefined) continue;
    const gap = look.image ? 0 : Math.min(3, wide * 0.04);
    if (!look.image) {
      pen.fillStyle = ink.track;
      pen.fillRect(x + gap, y + gap, wide - 2 * gap, high - 2 * gap);
    }
    if (weights && shown.attention) {
      const strength = Math.max(0, weights[place]) / (peak || 1);
      pen.fillStyle = `rgba(${heat},${(0.9 * strength).toFixed(3)})`;
      pen.fillRect(x + gap, y + gap, wide - 2 * gap, high - 2 * gap);
    }
    if (label !== undefined) {
      const size = Math.min(high * 0.42, (wide * 1.5) / Math.max(2, label.length), 22);
      pen.fillStyle = ink.ink;
      pen.font = font(size, 600);
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(label, x + wide / 2, y + high / 2);
    }
  }
  return { pen, width, height, wide, high };
}

function line(pen, points, colour, thick, dash) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.setLineDash(dash || []);
  pen.lineWidth = thick;
  pen.lineJoin = pen.lineCap = "round";
  pen.strokeStyle = colour;
  pen.stroke();
  pen.setLineDash([]);
}

function dot(pen, [x, y], radius, fill, edge) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  if (fill) { pen.fillStyle = fill; pen.fill(); }
  if (edge) { pen.lineWidth = 2; pen.strokeStyle = edge; pen.stroke(); }
}

function drawStage() {
  const look = looks[Math.floor(now / each)], inside = now % each;
  at("stage").classList.toggle("short", !look.image);
  const words = chosen === null ? "" : ` (head ${chosen + 1} alone)`;
  at("look-name").textContent = "looks at " + look.name + words;
  const weights = weightsOf(look, inside);
  const made = drawLook(at("stage"), look, weights, peakOf(look), true);
  if (weights && shown.attention) outlineMost(made, look, weights);
  if (data.walks.length && shown.walk) drawWalks(made, look);
  if (weights && look.image && shown.peaks) drawPeaks(made, look, inside);
  at("stage").setAttribute("aria-label", describe(look, weights));
}

/* What the picture shows, for those who cannot see it. */
function describe(look, weights) {
  const parts = [`${look.name}, ${look.grid[0]} by ${look.grid[1]} places`];
  if (weights) {
    const place = most(weights);
    parts.push(`most attention of ${whose()} is at row ${Math.floor(place / look.grid[1]) + 1}, ` +
      `column ${place % look.grid[1] + 1}`);
  }
  if (data.walks.length) parts.push(data.outcomes[now]);
  return parts.join("; ");
}

/* The places that were looked at most, one tick after another. */
function drawPeaks({ pen, wide, high }, look, inside) {
  const columns = look.grid[1], edge = Math.min(wide, high);
  const spot = (place) => [((place % columns) + 0.5) * wide, (Math.floor(place / columns) + 0.5) * high];
  const visits = new Map(), ways = [];
  for (let t = 0; t <= inside; t++) {
    const place = most(weightsOf(look, t));
    if (!visits.has(place)) visits.set(place, []);
    visits.get(place).push(t);
    ways.push(place);
  }
  const thick = Math.max(1.5, Math.min(3, edge * 0.06));
  for (let t = 1; t <= inside; t++) {
    line(pen, [spot(ways[t - 1]), spot(ways[t])], "rgba(255,255,255,.75)", thick + 3);
    line(pen, [spot(ways[t - 1]), spot(ways[t])], shade(t), thick);
  }
  for (const [place, at_] of visits) {
    const [x, y] = spot(place), last = at_[at_.length - 1];
    dot(pen, [x, y], Math.max(2.5, Math.min(6, edge * 0.14)), shade(last), "#ffffff");
    if (edge < 24) continue;
    pen.font = font(Math.min(13, edge * 0.32), 700);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 3.5;
    pen.lineJoin = "round";
    pen.strokeStyle = "#ffffff";
    const text = ranges(at_.map((one) => one + 1)), up = y - edge * 0.33;
    pen.strokeText(text, x, up);
    pen.fillStyle = "#5f3dc4";
    pen.fillText(text, x, up);
  }
}

/* The place that is looked at most. */
function outlineMost({ pen, wide, high }, look, weights) {
  const place = most(weights), columns = look.grid[1];
  const thick = Math.max(1.5, Math.min(wide, high) * 0.05);
  pen.lineWidth = thick;
  pen.strokeStyle = ink.heat;
  pen.strokeRect((place % columns) * wide + thick, Math.floor(place / columns) * high + thick,
    wide - 2 * thick, high - 2 * thick);
}

function drawWalks(made, look) {
  const { pen, width, height } = made;
  const wide = width / look.size[1], high = height / look.size[0];
  const spot = ([row, column]) => [(column + 0.5) * wide, (row + 0.5) * high];
  const thick = Math.max(3, wide * 0.16);
  const square = ([row, column], colour) => {
    const side = Math.min(wide, high) * 0.62;
    pen.fillStyle = colour;
    pen.fillRect((column + 0.5) * wide - side / 2, (row + 0.5) * high - side / 2, side, side);
  };
  const walk = data.walks[now];
  if (look.way) {
    square(look.way.cells[look.way.cells.length - 1], "rgb(38,145,96)");
    line(pen, look.way.cells.map(spot), "rgba(38,145,96,.75)", thick, [2, thick * 2]);
  }
  if (look.walked.length > 1) {
    line(pen, look.walked.map(spot), "#ffffff", thick * 0.6 + 2);
    line(pen, look.walked.map(spot), "#0b4f8a", thick * 0.6);
    square(look.walked[0], "rgba(214,69,80,.5)");
  }
  square(walk.cells[0], "rgb(214,69,80)");
  const cells = walk.cells.map(spot);
  line(pen, cells, "#ffffff", thick + 3);
  line(pen, cells, "#1c7ed6", thick);
  const end = cells[cells.length - 1], arm = Math.min(wide, high) * 0.2;
  if (walk.end === "wall") {
    for (const [colour, more] of [["#ffffff", 3], ["#e03131", 0]]) {
      line(pen, [[end[0] - arm, end[1] - arm], [end[0] + arm, end[1] + arm]], colour, thick * 0.8 + more);
      line(pen, [[end[0] - arm, end[1] + arm], [end[0] + arm, end[1] - arm]], colour, thick * 0.8 + more);
    }
  } else dot(pen, end, arm, walk.end === "goal" ? "#2f9e44" : "#1c7ed6", "#ffffff");
  if (data.rounds > 1) looks.slice(0, Math.floor(now / each) + 1).forEach((one, i) => {
    const [x, y] = spot(one.walked[one.walked.length - 1]);
    const radius = Math.max(5, Math.min(10, wide * 0.26));
    dot(pen, [x, y], radius, "#ffffff", "#0b4f8a");
    pen.font = font(radius * 1.25, 700);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillStyle = "#0b4f8a";
    pen.fillText(String(i + 1), x, y + 0.5);
  });
}

/* Rows are cells of the right way, columns ticks. */
function drawAlong() {
  const look = looks[Math.floor(now / each)], inside = now % each, first = now - inside;
  at("along-section").hidden = !look.way;
  document.querySelector("main").classList.toggle("maze", Boolean(look.way));
  if (!look.way) return;
  const cells = look.way.cells, left = 38;
  const { pen, width, height } = prepare(at("along"),
    Math.max(150, Math.min(300, cells.length * 24)));
  const wide = (width - left) / each, high = height / cells.length;
  const place = ([row, column]) => Math.floor(row * look.grid[0] / look.size[0]) * look.grid[1] +
    Math.floor(column * look.grid[1] / look.size[1]);
  const heat = rgb(ink.heat);
  for (let t = 0; t < each; t++) {
    const weights = weightsOf(look, t);
    cells.forEach((cell, i) => {
      pen.fillStyle = ink.track;
      pen.fillRect(left + t * wide, i * high, wide + 0.5, high + 0.5);
      if (!weights) return;
      const strength = weights[place(cell)] / (peakOf(look) || 1) * (t <= inside ? 1 : 0.25);
      pen.fillStyle = `rgba(${heat},${strength.toFixed(3)})`;
      pen.fillRect(left + t * wide, i * high, wide + 0.5, high + 0.5);
    });
  }
  const far = data.reaches.slice(first, first + each)
    .map((one, t) => [left + (t + 0.5) * wide, (one + 0.5) * high]);
  pen.globalAlpha = 0.25;
  line(pen, far, "#1c7ed6", 3);
  pen.globalAlpha = 1;
  line(pen, far.slice(0, inside + 1), "#1c7ed6", 3);
  dot(pen, far[inside], 5, "#1c7ed6", "#ffffff");
  pen.lineWidth = 1.5;
  pen.strokeStyle = ink.ink;
  pen.strokeRect(left + inside * wide + 0.75, 0.75, wide - 1.5, height - 1.5);
  pen.font = font(11);
  pen.fillStyle = ink.muted;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillText("start", left - 6, high / 2);
  pen.fillText("goal", left - 6, height - high / 2);
  at("along-note").textContent = "of " + whose();
  let words = `${data.reaches[now]} of ${cells.length - 1} moves of the way are right`;
  if (look.on_way) {
    const heads = look.on_way.shape[1], some = look.on_way.values.subarray(inside * heads, (inside + 1) * heads);
    const share = chosen === null ? some.reduce((a, b) => a + b) / heads : some[chosen];
    words += `; ${percent(share)} of the attention is on the way, ${percent(look.chance)} would be by chance`;
  }
  at("along-now").textContent = `Tick ${now + 1}: ${words}.`;
  at("along").setAttribute("aria-label",
    "attention on each cell of the right way at each tick; " + words);
}

function drawHeads() {
  const look = looks[Math.floor(now / each)], inside = now % each;
  const empty = look.attention === null;
  at("heads-section").hidden = empty;
  if (empty) return;
  const [, heads, places] = look.attention.shape;
  const holder = at("heads");
  if (holder.childElementCount !== heads) {
    holder.replaceChildren();
    for (let head = 0; head < heads; head++) holder.append(headFigure(head, look.averaged));
  }
  holder.className = look.image ? "" : "wide";
  holder.style.gridTemplateColumns = look.way ? `repeat(${columnsOfHeads(holder, look, heads)}, 1fr)` : "";
  at("heads-section").querySelector("small").hidden = look.averaged;
  for (let head = 0; head < heads; head++) {
    const first = (inside * heads + head) * places;
    const weights = look.attention.values.subarray(first, first + places);
    const figure = holder.children[head];
    drawLook(figure.firstChild, look, weights, look.peak, false);
    figure.setAttribute("aria-pressed", String(chosen === head));
  }
}

/* As few columns as fit beside the attention along the way. */
function columnsOfHeads(holder, look, heads) {
  const tall = look.size[0] / look.size[1];
  for (let columns = 1; columns < heads; columns++)
    if (Math.ceil(heads / columns) * ((holder.clientWidth / columns) * tall + 20) <= 500) return columns;
  return heads;
}

function headFigure(head, averaged) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const canvas = document.createElement("canvas");
  caption.textContent = averaged ? "mean of all heads" : "head " + (head + 1);
  canvas.setAttribute("aria-hidden", "true");
  figure.append(canvas, caption);
  if (averaged) return figure;
  figure.tabIndex = 0;
  figure.setAttribute("role", "button");
  figure.onclick = () => { chosen = chosen === head ? null : head; draw(); };
  figure.onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    figure.click();
  };
  return figure;
}

/* Answers. */
function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(share) {
  const fine = (share > 0.995 && share < 0.9995) || (share >= 0.0005 && share < 0.0995);
  return (100 * share).toFixed(fine ? 1 : 0) + "%";
}

function drawAnswer() {
  const verdict = at("verdict"), right = data.right[now];
  const names = data.said.length ? data.said[now] : null;
  verdict.replaceChildren();
  if (names) {
    const said = names.length ? names.map((one) => data.classes[one]).join(" ") : "nothing yet";
    verdict.append("said so far: ", element("b", "", said), " · ");
  } else if (positions === 1)
    verdict.append("says ", element("b", "", data.classes[likeliest(now, 0)]), " · ");
  const target = looks[Math.floor(now / each)].target;
  if (right !== null) {
    const wanted = target.map((one) => data.classes[one]).join(" ");
    const word = data.verdicts[now];
    verdict.append(element("b", right ? "good" : word === "wrong" ? "bad" : "", word));
    if (positions === 1 || names) verdict.append(" · right is " + wanted);
    else {
      const good = target.filter((one, i) => likeliest(now, i) === one).length;
      verdict.append(` · ${good} of ${positions} places`);
    }
    verdict.append(" · ");
  }
  if (data.outcomes[now]) verdict.append(data.outcomes[now] + " · ");
  verdict.append("certainty " + data.certainty[now].toFixed(3));
  at("answer").replaceChildren(positions === 1 ? bars(names, target) : chips(target));
}

function bars(names, target) {
  let kinds = [...Array(classes).keys()];
  if (classes > 20) {
    kinds.sort((a, b) => probability(now, 0, b) - probability(now, 0, a));
    kinds = kinds.slice(0, 12);
  }
  const made = element("div", "bars"), best = likeliest(now, 0);
  for (const kind of kinds) {
    const share = probability(now, 0, kind);
    const marked = !names && target && target[0] === kind;
    const row = element("div", (kind === best ? "chosen " : "") + (marked ? "target" : ""));
    const track = element("div", "track"), fill = element("div", "fill");
    fill.style.width = 100 * share + "%";
    track.append(fill);
    row.append(element("div", "name", data.classes[kind]), track,
      element("div", "share", percent(share)));
    made.append(row);
  }
  return made;
}

function chips(target) {
  const made = element("div", "chips" + (positions > 40 ? " small" : ""));
  for (let place = 0; place < positions; place++) {
    const kind = likeliest(now, place), share = probability(now, place, kind);
    const wanted = target ? target[place] : null;
    const state = wanted === null ? "" : kind === wanted ? " good" : " bad";
    const chip = element("div", "chip" + state);
    chip.title = data.classes.slice(0, 12)
      .map((name, k) => name + " " + percent(probability(now, place, k))).join(", ");
    const fill = element("div", "fill"), bar = element("i");
    bar.style.width = 100 * share + "%";
    fill.append(bar);
    chip.append(element("div", "says" + (data.classes[kind].length > 2 ? " word" : ""), data.classes[kind]),
      element("div", "share", percent(share)), fill);
    if (wanted !== null) chip.append(element("div", "target", data.classes[wanted]));
    made.append(chip);
  }
  return made;
}

/* Certainty. */
const margin = { left: 34, right: 14, top: 14, bottom: 22 };

function drawCertainty() {
  const { pen, width, height } = prepare(at("certainty"), at("plot").clientHeight);
  const x = (tick) => margin.left + (ticks > 1 ? tick / (ticks - 1) : 0.5) * (width - margin.left - margin.right);
  const y = (value) => height - margin.bottom - value * (height - margin.top - margin.bottom);
  pen.font = font(11);
  pen.fillStyle = ink.muted;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const value of [0, 0.5, 1]) {
    line(pen, [[margin.left, y(value)], [width - margin.right, y(value)]], ink.line, 1);
    pen.fillText(String(value), margin.left - 8, y(value));
  }
  pen.textAlign = "center";
  const step = Math.ceil(ticks / 16);
  for (let tick = 0; tick < ticks; tick += step) pen.fillText(String(tick + 1), x(tick), height - 9);
  for (let begin = perRound; begin < ticks; begin += perRound)
    line(pen, [[x(begin - 0.5), margin.top], [x(begin - 0.5), height - margin.bottom]], ink.line, 1.5);
  line(pen, [[x(now), margin.top - 4], [x(now), height - margin.bottom]], ink.accent, 1.5);
  if (data.summary && data.rounds === 1)
    line(pen, data.summary.solved_by_tick.map((one, t) => [x(data.unjudged + t), y(one)]), ink.muted,
      1.5, [4, 5]);
  line(pen, data.certainty.map((one, t) => [x(t), y(one)]), ink.accent, 2);
  const radius = Math.max(2, Math.min(4.5, 160 / ticks));
  data.certainty.forEach((one, t) => {
    const fill = data.right[t] === null ? ink.accent : data.right[t] ? ink.good : ink.bad;
    dot(pen, [x(t), y(one)], t === now ? radius + 2 : radius, fill, t === now ? ink.card : null);
  });
  for (const tick of data.taken) dot(pen, [x(tick), y(data.certainty[tick])], radius + 5, null, ink.ink);
}

/* Neurons and pairs. */
function columnsOf(array) {
  const [times, num] = array.shape;
  const sizes = Array.from(array.values, Math.abs).sort((a, b) => a - b);
  return { times, num, peak: sizes[Math.floor(0.99 * (sizes.length - 1))] || 1 };
}
const scales = { pre: columnsOf(pre), post: columnsOf(post), synchrony: columnsOf(synchrony) };

function blend(value, peak, fade, into, place) {
  const strength = Math.min(1, Math.abs(value) / peak) ** 0.8 * fade;
  const from = blend.card, to = value < 0 ? blend.below : blend.above;
  for (let c = 0; c < 3; c++) into[place + c] = from[c] + (to[c] - from[c]) * strength;
  into[place + 3] = 255;
}

function drawMap(canvas, array, { times, num, peak }, height) {
  const small = document.createElement("canvas");
  small.width = times;
  small.height = num;
  const pixels = new ImageData(times, num);
  for (let t = 0; t < times; t++) for (let n = 0; n < num; n++)
    blend(array.values[t * num + n], peak, t <= now ? 1 : 0.18, pixels.data, 4 * (n * times + t));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const made = prepare(canvas, height);
  made.pen.imageSmoothingEnabled = false;
  made.pen.drawImage(small, 0, 0, made.width, height);
  const wide = made.width / times;
  made.pen.lineWidth = 1.5;
  made.pen.strokeStyle = ink.ink;
  made.pen.strokeRect(now * wide + 0.75, 0.75, Math.max(1, wide - 1.5), height - 1.5);
}

function drawMatrix() {
  const edge = data.triangle;
  at("matrix-figure").hidden = !edge;
  if (!edge) return;
  const small = document.createElement("canvas");
  small.width = small.height = edge;
  const pixels = new ImageData(edge, edge), num = synchrony.shape[1];
  let pair = 0;
  for (let i = 0; i < edge; i++) for (let j = i; j < edge; j++, pair++) {
    const value = synchrony.values[now * num + pair];
    blend(value, scales.synchrony.peak, 1, pixels.data, 4 * (i * edge + j));
    blend(value, scales.synchrony.peak, 1, pixels.data, 4 * (j * edge + i));
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const { pen, width, height } = prepare(at("matrix"), at("matrix").clientWidth);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width, height);
}

const traced = (() => {
  const [times, num] = post.shape;
  const spread = [...Array(num).keys()].map((n) => {
    let sum = 0, squares = 0;
    for (let t = 0; t < times; t++) { const v = post.values[t * num + n]; sum += v; squares += v * v; }
    return [squares / times - (sum / times) ** 2, n];
  });
  return spread.sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, 24).map((one) => one[1]);
})();

function drawTraces() {
  const columns = at("traces").clientWidth < 480 ? 4 : 6;
  const rows = Math.ceil(traced.length / columns);
  const { pen, width, height } = prepare(at("traces"), rows * 84);
  const wide = width / columns, high = height / rows, num = post.shape[1];
  traced.forEach((neuron, i) => {
    const left = (i % columns) * wide + 4, top = Math.floor(i / columns) * high + 18;
    const inner = wide - 10, tall = high - 26;
    pen.font = font(10);
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
    pen.fillStyle = ink.muted;
    pen.fillText("neuron " + data.neurons[neuron], left, top - 5);
    line(pen, [[left, top + tall / 2], [left + inner, top + tall / 2]], ink.line, 1);
    for (const [array, colour, thick, alpha] of
      [[pre, ink.muted, 1.2, 0.7], [post, ink.accent, 2, 1]]) {
      let peak = 1e-9;
      for (let t = 0; t < ticks; t++) peak = Math.max(peak, Math.abs(array.values[t * num + neuron]));
      const points = [...Array(ticks).keys()].map((t) => [
        left + (ticks > 1 ? t / (ticks - 1) : 0.5) * inner,
        top + (tall / 2) * (1 - array.values[t * num + neuron] / peak),
      ]);
      pen.globalAlpha = alpha * 0.18;
      line(pen, points, colour, thick);
      pen.globalAlpha = alpha;
      line(pen, points.slice(0, now + 1), colour, thick);
      dot(pen, points[now], thick + 0.8, colour);
      pen.globalAlpha = 1;
    }
  });
}

function draw() {
  readColours();
  blend.card = rgb(ink.card); blend.below = rgb(ink.below); blend.above = rgb(ink.above);
  at("slider").value = now;
  at("slider").setAttribute("aria-valuetext", `tick ${now + 1} of ${ticks}`);
  at("tick").textContent = `tick ${now + 1} / ${ticks}`;
  drawStage();
  drawAnswer();
  drawCertainty();
  drawAlong();
  drawHeads();
  drawTraces();
  drawMap(at("pre"), pre, scales.pre, 336);
  drawMap(at("post"), post, scales.post, 336);
  drawMatrix();
  drawMap(at("strip"), synchrony, scales.synchrony, 260);
}

/* Going through the ticks. */
function go(tick) {
  now = Math.max(0, Math.min(ticks - 1, tick));
  history.replaceState(null, "", "#" + (now + 1));
  draw();
}

function stop() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "▶";
  at("play").setAttribute("aria-label", "play");
}

function play() {
  if (timer !== null) return stop();
  if (now === ticks - 1) go(0);
  at("play").textContent = "❚❚";
  at("play").setAttribute("aria-label", "pause");
  timer = setInterval(() => (now === ticks - 1 ? stop() : go(now + 1)), Math.max(120, 6000 / ticks));
}

function turnTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const is = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = is === "dark" ? "light" : "dark";
  draw();
}

function toggle(name, words, key) {
  const label = element("label"), box = element("input");
  box.type = "checkbox";
  box.checked = true;
  box.onchange = () => { shown[name] = box.checked; draw(); };
  const mark = element("i", "key");
  mark.style.background = key;
  label.append(box, mark, words);
  at("toggles").append(label);
}

function legend() {
  at("title").textContent = data.title;
  at("facts").textContent = data.facts;
  if (data.looks.some((one) => one.attention)) {
    toggle("attention", "attention", "var(--heat)");
    if (looks.some((one) => one.image)) toggle("peaks", "place of most attention, by tick", "#7048e8");
  }
  if (data.walks.length) toggle("walk", "route (dots: shortest)", "#1c7ed6");
  const keys = at("certainty-legend");
  const key = (kind, words) => {
    const span = element("span");
    span.append(element("i", kind), words);
    keys.append(span);
  };
  key("key sure", "certainty");
  if (looks.some((one) => one.target)) { key("dot", "right"); key("dot bad", data.said.length ? "not right" : "wrong"); }
  key("dot ring", data.rounds > 1 ? "each round's answer" : "its answer");
  if (data.summary && data.rounds === 1) key("key rows", `solved of ${data.summary.rows} test rows`.replace("test", data.summary.kind));
  const num = traced.length, all = data.num_neurons;
  at("traces-note").textContent = `the ${num} that change most, each to its own scale`;
  at("activity-note").textContent = data.neurons.length < all
    ? `${data.neurons.length} of ${all} neurons` : `${all} neurons`;
  const pairs = synchrony.shape[1];
  at("pairs-note").textContent = pairs < data.num_pairs
    ? `${pairs} of ${data.num_pairs} pairs` : `${data.num_pairs} pairs`;
  if (data.summary) {
    const one = data.summary;
    at("summary").textContent = `Over ${one.rows} ${one.kind} rows: ${percent(one.solved)} solved at ` +
      `the tick that the answer is taken from (tick ${(one.surest_tick + one.unjudged).toFixed(1)} on average), ` +
      `${percent(one.positions)} of places; right at some tick but not at that one: ` +
      `${percent(one.overthought)}.` + (one.larger || []).map((large) => {
        const shares = large.arrived_by_round;
        return ` Of ${large.mazes} mazes of ${large.edge} x ${large.edge} pixels it solves ` +
          `${percent(shares[0])} asked once, ${percent(shares[shares.length - 1])} asked up to ${shares.length} times.`;
      }).join("");
    if (one.attention) at("along-rows").textContent =
      `Over ${one.attention.rows} ${one.kind} rows: ${one.attention.in_words}`;
  }
}

at("slider").max = ticks - 1;
at("slider").oninput = (event) => { stop(); go(Number(event.target.value)); };
at("play").onclick = play;
at("theme").onclick = turnTheme;
at("certainty").onclick = (event) => {
  const width = event.target.clientWidth - margin.left - margin.right;
  stop();
  go(Math.round(((event.offsetX - margin.left) / width) * (ticks - 1)));
};
document.addEventListener("keydown", (event) => {
  const keys = { ArrowLeft: -1, ArrowRight: 1, Home: -1e6, End: 1e6 };
  if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.type !== "checkbox") {
    event.preventDefault();
    play();
  } else if (event.key in keys) {
    event.preventDefault();
    stop();
    go(now + keys[event.key]);
  }
});
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
const wanted = parseInt(location.hash.slice(1), 10);
if (wanted >= 1 && wanted <= ticks) now = wanted - 1;
legend();
draw();
