/* Numbers and sentences as edgelib.report.claims.choices prints them. */

/* As Python's f"{x:.2f}": a number half way between two goes to the even one. */
function fixed(x, digits) {
  const shown = Math.abs(x).toFixed(digits);
  const exact = Math.abs(x).toFixed(Math.min(100, digits + 60));
  const cut = exact.length - Math.min(100 - digits, 60);
  const halfWay = /^50*$/.test(exact.slice(cut)) && Number(exact[digits ? cut - 1 : cut - 2]) % 2 === 0;
  const even = halfWay ? exact.slice(0, digits ? cut : cut - 1) : shown;
  return (x < 0 || Object.is(x, -0) ? "-" : "") + even;
}

/* As Python's f"{x:+.1f}". */
function signed(x, digits) {
  const text = fixed(x, digits);
  return text.startsWith("-") ? text : `+${text}`;
}

/* As Python's f"{x:.3g}". */
function general(x, digits) {
  const [mantissa, power] = x.toExponential(digits - 1).split("e");
  const cut = text => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (power >= -4 && power < digits) return cut(fixed(x, digits - 1 - Number(power)));
  return `${cut(mantissa)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/* Three digits and never an exponent: "1,340". */
function plain(x) {
  return x >= 100 ? thousands(Number(fixed(x, 0))) : general(x, 3);
}

function thousands(x) {
  return x.toLocaleString("en-US");
}

function spread(value, low, high) {
  return `${plain(value)} (${plain(low)} to ${plain(high)})`;
}

function points(margin) {
  const value = general(100 * margin, 6);
  return `${value} point${value === "1" ? "" : "s"}`;
}

function percent(seen) {
  return `${fixed(100 * seen.value, 1)} % (${fixed(100 * seen.low, 1)} to ${fixed(100 * seen.high, 1)})`;
}

/* What is recommended: "FP16", or "FP16 or W8A8 (tied in speed)". */
function choiceText(record, found) {
  const names = found.tied.map(choice => labelOf(record, choice.config));
  if (names.length < 2) return names.join("") || "nothing";
  /* names that hold commas are kept apart by semicolons */
  const [apart, last] = names.some(name => name.includes(",")) ? ["; ", "; or "] : [", ", " or "];
  return `${names.slice(0, -1).join(apart)}${last}${names.at(-1)} (tied in ${found.order})`;
}

function certaintyText(found) {
  return `within ${points(found.margin)} of the best with probability ${probability(found)} (${found.shown ? "shown" : "observed, not shown"})`;
}

/* The same for a column whose title names the margin. */
function chanceText(found) {
  return `${probability(found)}, ${found.shown ? "shown" : "observed"}`;
}

function probability(found) {
  const least = Math.min(...found.tied.map(choice => choice.p_within));
  return `${found.tied.length > 1 ? "at least " : ""}${fixed(least, 2)}`;
}

function openText(count) {
  const digits = Math.max(0, String(count).length - 2);
  const round = 10 ** digits * Number(fixed(count / 10 ** digits, 0));
  return `not shown to keep the margin; about ${thousands(round)} images would show it`;
}

function caveatText(caveat) {
  const chapter = `chapter ${caveat.chapter.replaceAll("_", " ")}`;
  const where = caveat.kind === "twin" ? `with planted outliers (${caveat.where})` : `calibrated on ${caveat.where}`;
  if (caveat.value === null || caveat.instead_of === null)
    return `${fixed(100 * caveat.drop, 1)} points lost ${where} (${chapter})`;
  return `${fixed(100 * caveat.value, 1)} instead of ${fixed(100 * caveat.instead_of, 1)} % ${where} (${chapter})`;
}

/* Why a configuration is not recommended, in the order of the record: [config, reason]. */
function others(record, found) {
  const later = {speed: "keeps the margin, but is slower", bytes: "keeps the margin, but is larger", energy: "keeps the margin, but takes more energy"};
  const tied = found.tied.map(choice => choice.config);
  return record.configs.map(config => config.key).filter(key => !tied.includes(key)).map(key => {
    const reason = found.out[key] ?? (key in found.open ? openText(found.open[key]) : later[found.order]);
    return [key, reason];
  });
}

/* One sentence about a device: what to ship by the upper end of a time, else by its middle, else why nothing. */
function answerText(record, sure, middle) {
  const found = sure.tied.length ? sure : middle;
  if (found.tied.length) {
    const late = sure.tied.length ? "" : "; the upper end of no time is within the budget, so time it on the device first";
    return `${found.name}: ship ${choiceText(record, found)}, ${certaintyText(found)}${late}.`;
  }
  if (found.fits.length)
    return `${found.name}: ${found.fits.length} configurations fit, and none is within ${points(found.margin)} of the others on clean and on corrupted images alike; allow more, or take more images.`;
  const reasons = [...new Set(Object.values(found.out))];
  const rest = reasons.length > 3 ? ` and ${reasons.length - 3} more reasons` : "";
  return `${found.name}: nothing fits (${reasons.slice(0, 3).join("; ")}${rest}).`;
}
