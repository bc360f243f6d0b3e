/* The comparison of edgelib.decide.decision, number for number: a record and a question in, an answer out. A change there is
   a change here; tests hold both against each other. */
const GIB = 2 ** 30;
const ORDERS = ["speed", "bytes", "energy"];
const TIED = 1.6448536269514722; // two costs are told apart beyond this many deviations: 95 % of a normal distribution
const DIGITS = 1e4; // draws are kept in hundredths of a point

function known(value, names, what) {
  if (!names.includes(value)) throw new Error(`unknown ${what} "${value}"; choose from ${names.join(", ")}`);
}

function decide(record, asked) {
  const {device, memory = null, latency_ms = null, margin = 0.01, order = "speed", corruption = null, end = "upper"} = asked;
  known(order, ORDERS, "order");
  known(device, record.devices.map(d => d.key), "device");
  for (const [what, value] of Object.entries({memory, latency_ms, margin}))
    if (value !== null && !(value > 0 && Number.isFinite(value)))
      throw new Error(`${what} must be a number above 0, got ${value}`);
  if (corruption !== null) known(corruption, corruptions(record), "corruption");
  const place = record.devices.find(d => d.key === device);
  const criteria = ["clean", corruption === null ? "corrupted" : corruption];
  const {out, fits} = within(place, memory, latency_ms, end);
  const names = fits.map(option => option.config);
  const shown = names.filter(c => keeps(record.bounds, criteria, c, names, margin));
  const observed = names.filter(c => keeps(record.effects, criteria, c, names, margin));
  const kept = shown.length ? shown : observed;
  for (const config of names) if (!observed.includes(config)) out[config] = worse(record, criteria, config, names);
  const options = Object.fromEntries(fits.map(option => [option.config, option]));
  const price = Object.fromEntries(kept.map(c => [c, cost(place, options[c], order)]));
  const ranked = [...kept].sort((a, b) => price[a] - price[b] || (a < b ? -1 : 1));
  const first = options[ranked[0]];
  const inside = stays(record, criteria, names, margin);
  const tied = ranked.filter(c => areTied(first, options[c], order)).map(c => ({
    ...options[c],
    cost: price[c],
    p_within: inside[c],
    p_as_good: noMore(options[c], first, order),
    shown: shown.includes(c),
  }));
  const open = {};
  for (const c of observed) if (!shown.includes(c)) open[c] = images(record, criteria, c, names, margin);
  return {device, name: place.name, end, margin, order, criteria, fits: names, kept: ranked, tied, open, out, shown: shown.length > 0};
}

function corruptions(record) {
  return record.criteria.filter(c => c !== "clean" && c !== "corrupted");
}

function board(place, memory) {
  return Math.min(memory ?? Infinity, place.memory_bytes ?? Infinity);
}

function within(place, memory, latency_ms, end) {
  const limit = board(place, memory);
  const out = {};
  const fits = [];
  for (const option of place.options) {
    const time = end === "upper" ? option.high : option.latency_ms;
    if (option.reason) out[option.config] = option.reason;
    else if (option.total > limit)
      out[option.config] = `needs ${fixed(option.total / GIB, 2)} GiB in all of ${fixed(limit / GIB, 2)} GiB`;
    else if (latency_ms !== null && time > latency_ms)
      out[option.config] =
        `${end === "upper" ? "the upper end of its interval" : "its time"}, ${general(time, 3)} ms, is above ${general(latency_ms, 6)} ms`;
    else fits.push(option);
  }
  return {out, fits};
}

/* Whether a configuration is above every other that fits by more than -margin, in every criterion. */
function keeps(table, criteria, config, fits, margin) {
  return criteria.every(c => fits.every(other => other === config || table[c][config][other] > -margin));
}

/* How many images would show it: widths of bounds fall with the root of images. */
function images(record, criteria, config, fits, margin) {
  let most = -Infinity;
  for (const c of criteria)
    for (const o of fits)
      if (o !== config) {
        const effect = record.effects[c][config][o];
        most = Math.max(most, (effect - record.bounds[c][config][o]) / (margin + effect));
      }
  return Math.ceil(record.n_images * most ** 2);
}

/* Why a configuration that fits is out: against which other, in what, by how much. */
function worse(record, criteria, config, fits) {
  const pairs = [];
  for (const c of criteria)
    for (const o of fits)
      if (o !== config) pairs.push([record.effects[c][config][o], record.bounds[c][config][o], -record.bounds[c][o][config], c, o]);
  const [effect, low, high, criterion, other] = pairs.reduce((a, b) => (before(b, a) ? b : a));
  const span = `${general(100 * (1 - 2 * record.alpha), 6)} % interval ${signed(100 * low, 1)} to ${signed(100 * high, 1)}`;
  const where = criterion === "clean" || criterion === "corrupted" ? `${criterion} images` : `images with ${criterion}`;
  return `${signed(100 * effect, 1)} points against ${labelOf(record, other)} on ${where} (${span})`;
}

function before(a, b) {
  const place = a.findIndex((value, i) => value !== b[i]);
  return place >= 0 && a[place] < b[place];
}

function labelOf(record, key) {
  return record.configs.find(config => config.key === key).label;
}

/* {config: share of draws in which it is within the margin of the best that fits, in every criterion}. */
function stays(record, criteria, fits, margin) {
  const columns = criteria.map(c => fits.map(f => record.draws[c][f]));
  const count = fits.map(() => 0);
  const least = columns.map(() => 0);
  for (let b = 0; b < record.n_draws; b++) {
    columns.forEach((column, c) => {
      let best = -Infinity;
      for (const draws of column) if (draws[b] > best) best = draws[b];
      least[c] = best - margin * DIGITS;
    });
    for (let f = 0; f < fits.length; f++) if (columns.every((column, c) => column[f][b] > least[c])) count[f] += 1;
  }
  return Object.fromEntries(fits.map((c, f) => [c, count[f] / record.n_draws]));
}

/* ms, bytes, or at most so many mJ: the highest power mode for as long as it takes. */
function cost(place, option, order) {
  if (order === "bytes") return option.total;
  if (order === "speed") return option.latency_ms;
  if (place.power_w === null)
    throw new Error(`${place.name} has no power_w, so energy is not known there; order by speed or bytes`);
  return option.latency_ms * place.power_w;
}

function areTied(a, b, order) {
  return order === "bytes" ? a.total === b.total : Math.abs(deviations(a, b)) <= TIED;
}

/* The probability that a costs no more than b. */
function noMore(a, b, order) {
  if (a.config === b.config) return 1;
  return order === "bytes" ? Number(a.total <= b.total) : normal(-deviations(a, b));
}

/* log(a / b) of two times in standard deviations of what they do not share; 0 for equal times. */
function deviations(a, b) {
  const ratio = Math.log(a.latency_ms / b.latency_ms);
  const own = Math.hypot(a.spread, b.spread);
  return own ? ratio / own : ratio ? Math.sign(ratio) * Infinity : 0;
}

/* The distribution function of the normal distribution (Marsaglia, 2004: a series in odd powers). */
function normal(x) {
  if (x <= -8) return 0;
  if (x >= 8) return 1;
  let sum = x;
  for (let k = 3, term = x; sum + term !== sum && k < 400; k += 2) sum += term *= (x * x) / k;
  return 0.5 + sum * Math.exp(-(x * x) / 2 - Math.log(2 * Math.PI) / 2);
}
