/* The form, the permalink and the answer. All text of the record goes through textContent. */
const FIELDS = ["device", "memory", "latency", "margin", "order", "corruption", "config"];
const UNITS = {memory: ["GB", GIB], latency: ["ms", 1], margin: ["", 0.01]};
const DEFAULTS = {device: "", memory: "", latency: "", margin: "1", order: "speed", corruption: "", config: ""};

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter(child => child !== null));
  return node;
}

/* The values of the fields that a link names, as text. */
function readHash(hash) {
  const found = {...DEFAULTS};
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!FIELDS.includes(name)) continue;
    const [unit] = UNITS[name] || [""];
    found[name] = unit && value.toLowerCase().endsWith(unit.toLowerCase()) ? value.slice(0, -unit.length).trim() : value;
  }
  return found;
}

function writeHash(values) {
  const parts = FIELDS.filter(name => values[name] !== DEFAULTS[name]);
  return `#${parts.map(name => `${name}=${encodeURIComponent(values[name])}${(UNITS[name] || [""])[0]}`).join("&")}`;
}

/* The question that the fields ask; throws for what is no number above 0. */
function question(values) {
  const number = name => {
    if (values[name] === "" && name !== "margin") return null;
    const value = Number(values[name]);
    if (!/^\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*$/.test(values[name]) || !(value > 0))
      throw new Error(`${name} must be a number above 0, got "${values[name]}"`);
    return name === "margin" ? value / 100 : value * UNITS[name][1];
  };
  const asked = {memory: number("memory"), latency_ms: number("latency"), margin: number("margin")};
  return {...asked, order: values.order, corruption: values.corruption || null};
}

/* The same question for the command line. */
function commandLine(values) {
  const quoted = text => (/^[\w.%+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
  const named = FIELDS.filter(name => name !== "config" && values[name] !== DEFAULTS[name]);
  return ["edgelib choose", ...named.map(name => `--${name} ${quoted(values[name] + (UNITS[name] || [""])[0])}`)].join(" ");
}

function both(record, asked, device) {
  return ["upper", "middle"].map(end => decide(record, {...asked, device, end}));
}

function shippedOf([sure, middle]) {
  return sure.tied.length ? sure : middle;
}

/* What becomes of one configuration in an answer. */
function fateOf(record, found, key) {
  const choice = found.tied.find(tied => tied.config === key);
  if (choice) return `shipped: ${certaintyText({...found, tied: [choice]})}, with ${choice.runtime}`;
  return Object.fromEntries(others(record, found))[key];
}

/* A number with its interval, which stays on one line. */
const isInterval = cell => /^\S+ \(.+ to .+\)$/.test(cell);

function table(caption, titles, rows) {
  const head = make("thead", {}, make("tr", {}, ...titles.map(title => make("th", {scope: "col"}, title))));
  const body = make("tbody", {}, ...rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", {scope: "row"}, first), ...rest.map(cell => make("td", isInterval(cell) ? {class: "interval"} : {}, cell)))));
  return make("div", {class: "decision-scroll", tabindex: "0", role: "region", "aria-label": caption},
    make("table", {class: "table"}, make("caption", {}, caption), head, body));
}

function code(title, text) {
  const button = make("button", {type: "button", class: "decision-copy"}, "Copy");
  const line = make("pre", {tabindex: "0", "aria-label": title}, make("code", {}, text));
  button.addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(line);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  });
  button.setAttribute("aria-label", `Copy: ${title}`);
  return make("div", {class: "decision-code"}, make("p", {}, title), button, line);
}

function memoryList(parts) {
  const rows = Object.entries(parts).map(([part, bytes]) => make("li", {}, `${part}: ${thousands(Number(fixed(bytes / 2 ** 20, 0)))} MiB`));
  return make("details", {}, make("summary", {}, "Memory by part"), make("ul", {}, ...rows));
}

function fact(term, value) {
  return make("div", {}, make("dt", {}, term), make("dd", {}, value));
}

/* One configuration that fits: cost, certainty, what to beware of, how to make and run it. */
function choiceCard(record, found, choice, limit, title = null) {
  const config = record.configs.find(c => c.key === choice.config);
  const criterion = found.criteria[1];
  const asked = criterion === "corrupted" ? "Mean over corruptions" : criterion.replaceAll("_", " ");
  const size = limit < Infinity ? `${fixed(choice.total / GIB, 2)} of ${general(limit / GIB, 3)} GiB` : `${fixed(choice.total / GIB, 2)} GiB`;
  const facts = [
    fact("Memory in all", size),
    fact(`One image, ${choice.source}`, `${spread(choice.latency_ms, choice.low, choice.high)} ms`),
    fact("Clean images", percent(config.accuracy.clean)),
    fact(asked, percent(config.accuracy[criterion])),
    fact(`Within ${points(found.margin)}`, choice.fate || `probability ${fixed(choice.p_within, 2)}, ${choice.shown ? "shown" : "observed, not shown"}`),
    found.tied.length > 1 && !choice.fate ? fact("Costs no more than the first", `probability ${fixed(choice.p_as_good, 2)}`) : null,
    fact("Runtime", withDoubt(record, choice.runtime)),
  ];
  const beware = config.caveats.map(caveat => make("li", {}, `Beware: ${caveatText(caveat)}.`));
  return make("section", {class: "decision-choice", [choice.fate ? "data-asked" : "data-config"]: choice.config},
    make("h3", {}, title || config.label),
    make("dl", {}, ...facts.filter(Boolean)),
    beware.length ? make("ul", {class: "decision-beware"}, ...beware) : null,
    memoryList(choice.memory),
    code("Make it with edgelib", config.command),
    code(`Run it with ${choice.runtime}`, choice.command),
    writerPart(record, found.device, choice.config, limit));
}

/* A runtime, with what no source was seen for. */
function withDoubt(record, runtime) {
  const doubt = (record.unverified || {})[runtime];
  return doubt ? `${runtime} (${doubt})` : runtime;
}

/* What a model that writes takes in the same configuration on the same device. */
function writerPart(record, device, key, limit) {
  const need = record.writer && (record.writer.devices[device] || []).find(n => n.config === key);
  if (!need) return null;
  const {model, context} = record.writer;
  const opening = `A model that writes (${model}, ${thousands(context)} tokens)`;
  if (need.reason) return make("p", {}, `${opening}: ${need.reason}.`);
  const over = need.total > limit;
  const fits = over ? `does not fit ${general(limit / GIB, 3)} GiB` : "fits";
  const said = make("p", {}, `${opening} needs ${fixed(need.total / GIB, 2)} GiB and ${fits}; its accuracy and speed are other questions.`);
  return make("div", {}, said, over ? null : code(`Run a model that writes with ${withDoubt(record, need.runtime)}`, need.command));
}

/* The answer for one device, as nodes under the sentence. */
function oneDevice(record, values, asked) {
  const ends = both(record, asked, values.device);
  const found = shippedOf(ends);
  const limit = board(record.devices.find(d => d.key === values.device), asked.memory);
  const cards = found.tied.map(choice => choiceCard(record, found, choice, limit));
  const more = ends[0].tied.length ? ends[1].tied.filter(c => !ends[0].tied.some(t => t.config === c.config)) : [];
  if (more.length)
    cards.push(make("p", {}, `By the middle of the projection ${more.map(c => labelOf(record, c.config)).join(", ")} would do; time it on the device before you believe it.`));
  const own = askedOption(record, found, values);
  if (own) cards.unshift(choiceCard(record, found, own, limit, `${labelOf(record, own.config)}, which you asked about`));
  const rows = others(record, found).map(([key, reason]) => [labelOf(record, key), reason]);
  const rest = rows.length ? [make("h2", {}, "Why not the others"), table("Configurations that are not recommended here", ["Configuration", "Why not"], rows)] : [];
  remember(found.name);
  const fate = values.config ? ` ${labelOf(record, values.config)}: ${fateOf(record, found, values.config)}.` : "";
  return {sentence: answerText(record, ...ends) + timeText(found) + fate, nodes: [...cards, ...rest]};
}

/* What a projected time asks of the reader. */
function timeText(found) {
  const late = found.tied.filter(choice => choice.source === "projected");
  if (!late.length) return "";
  const [{latency_ms, low, high}] = late;
  return ` Nobody timed it there: one image is projected to take ${spread(latency_ms, low, high)} ms, so time it on your board before you rely on that.`;
}

/* The configuration that was asked about, where it fits and something else is to be shipped. */
function askedOption(record, found, {config}) {
  if (!found.fits.includes(config) || found.tied.some(choice => choice.config === config)) return null;
  const option = record.devices.find(d => d.key === found.device).options.find(o => o.config === config);
  return {...option, fate: Object.fromEntries(others(record, found))[config]};
}

/* Keep the device of a question: the chart of the chapter shows it first. A page without a store does without. */
function remember(name) {
  try {
    localStorage.setItem("edgelib-device", name);
  } catch {}
}

/* Why nothing can be shipped, in short. */
function firstReason(found) {
  const reasons = [...new Set(Object.values(found.out))];
  return reasons.length > 1 ? `${reasons[0]}; and ${reasons.length - 1} more reasons` : reasons.join("");
}

/* A line per device where none is named. */
function everyDevice(record, values, asked) {
  let count = 0;
  const fitting = [];
  const shipping = [];
  const where = key => {
    if (!key) return "";
    const label = labelOf(record, key);
    const shipped = shipping.length ? `is among what to ship on ${shipping.join(", ")}` : "is not what to ship on any";
    return fitting.length ? ` ${label} runs and fits on ${fitting.join(", ")}, and ${shipped}.` : ` ${label} runs and fits on none of them.`;
  };
  const rows = record.devices.map(place => {
    const link = make("a", {href: writeHash({...values, device: place.key})}, place.name);
    let ends;
    try {
      ends = both(record, asked, place.key);
    } catch (error) {
      return [link, ...(values.config ? [""] : []), error.message, "", "", ""];
    }
    const found = shippedOf(ends);
    const fate = values.config ? [fateOf(record, found, values.config)] : [];
    if (found.fits.includes(values.config)) fitting.push(place.name);
    if (found.tied.some(choice => choice.config === values.config)) shipping.push(place.name);
    if (!found.tied.length) return [link, ...fate, "nothing", firstReason(found), "", ""];
    count += 1;
    const first = found.tied[0];
    const sizes = Math.max(...found.tied.map(choice => choice.total));
    const late = ends[0].tied.length ? "" : "; time it first: no upper end is within the budget";
    return [link, ...fate, choiceText(record, found), chanceText(found) + late, fixed(sizes / GIB, 2), spread(first.latency_ms, first.low, first.high)];
  });
  const titles = ["Device", ...(values.config ? [labelOf(record, values.config)] : []), "Ship", `P(within ${points(asked.margin)})`, "Memory in all, GiB", "Time, ms"];
  const able = record.devices.length === 1 ? "1 device" : `${record.devices.length} devices`;
  const sentence = `Something can be shipped on ${count} of ${able}.${where(values.config)} Choose one for costs, commands and reasons.`;
  return {sentence, nodes: [table("What to ship, device by device", titles, rows)]};
}

/* What to say and to show for the values of the fields. */
function answer(record, values) {
  const asked = question(values);
  if (values.config) known(values.config, record.configs.map(c => c.key), "configuration");
  known(asked.order, ORDERS, "order");
  if (asked.corruption !== null) known(asked.corruption, corruptions(record), "corruption");
  return values.device ? oneDevice(record, values, asked) : everyDevice(record, values, asked);
}

function choiceField(label, name, options, help) {
  const select = make("select", {name, id: `decision-${name}`}, ...options.map(([value, text]) => make("option", {value}, text)));
  return field(label, name, select, help);
}

function numberField(label, name, help) {
  const input = make("input", {name, id: `decision-${name}`, type: "text", inputmode: "decimal", autocomplete: "off", placeholder: name === "margin" ? "" : "any"});
  return field(label, name, input, help);
}

function field(label, name, control, help) {
  control.setAttribute("aria-describedby", `decision-${name}-help`);
  return make("div", {class: "decision-field"}, make("label", {for: control.id}, label), control,
    make("small", {id: `decision-${name}-help`}, help));
}

function formOf(record) {
  const devices = [["", "every device"], ...record.devices.map(d => [d.key, d.name])];
  const spoilt = [["", "the mean of all"], ...corruptions(record).map(c => [c, c.replaceAll("_", " ")])];
  const orders = [["speed", "speed"], ["bytes", "memory"], ["energy", "energy"]];
  const configs = [["", "none"], ...record.configs.map(c => [c.key, c.label])];
  return make("form", {id: "decision-form", "aria-label": "Your limits"},
    choiceField("Device", "device", devices, "It brings its memory, its speed and its runtimes."),
    numberField("Memory of the board, GB", "memory", "All of it; the system's share counts. Empty: what the device has."),
    numberField("Time for one image, ms", "latency", "A hard limit, at the upper end of the interval."),
    numberField("Accuracy you can lose, points", "margin", "Against the best that fits, clean and corrupted."),
    choiceField("Then prefer", "order", orders, "What decides among those that keep the margin."),
    choiceField("Be ready for", "corruption", spoilt, "Which spoilt images have to keep the margin."),
    choiceField("Ask about one configuration", "config", configs, "The answer says what becomes of it."));
}

/* Questions that people come with, as links. */
function startingPoints(record) {
  const four = record.devices.find(d => d.memory_bytes === 4 * GIB);
  const links = [];
  if (four) links.push(["A 4 GB board", {memory: "4", device: four.key}]);
  if (record.configs.some(c => c.key === "fp8")) links.push(["16 GB with FP8", {...sixteen(record), config: "fp8"}]);
  if (corruptions(record).includes("fog")) links.push(["Ready for fog", {corruption: "fog"}]);
  links.push(["Every device", {}]);
  const items = links.map(([text, values]) => make("a", {href: writeHash({...DEFAULTS, ...values})}, text));
  return make("nav", {class: "decision-starts", "aria-label": "Common questions"}, ...items);
}

/* The device of 16 GB that runs FP8, if there is one; else the question about all devices. */
function sixteen(record) {
  const able = d => d.memory_bytes === 16 * GIB && d.options.some(o => o.config === "fp8" && !o.reason);
  const found = record.devices.find(able);
  return found ? {device: found.key} : {memory: "16"};
}

function scopeText(record) {
  const drawn = record.synthetic ? " The images are drawn, not photographed: run the chapter on your own model and images before you ship." : "";
  return `Accuracies are ${record.simulated ? "simulated" : "measured"}: ${record.model} on ${record.n_images} images. Memory and time are those of ${record.costs}.${drawn}`;
}

function start(root, record) {
  const form = formOf(record);
  const said = make("p", {id: "decision-said", role: "status", "aria-live": "polite"});
  const shown = make("div", {id: "decision-shown"});
  const line = make("div");
  const heading = make("h2", {class: "decision-answer"}, "The answer");
  root.replaceChildren(
    make("h2", {}, "Your limits"), startingPoints(record), form,
    heading, said, shown,
    make("h2", {}, "The same on a command line"), line,
    make("p", {}, "The address of this page holds the question: bookmark it or send it."),
    make("p", {class: "decision-scope"}, scopeText(record)),
    ...(record.not_available.length ? [make("details", {}, make("summary", {}, "What is not known"), make("ul", {}, ...record.not_available.map(text => make("li", {}, text))))] : []));

  function draw(values) {
    for (const name of FIELDS) form.elements[name].removeAttribute("aria-invalid");
    try {
      const {sentence, nodes} = answer(record, values);
      said.textContent = sentence;
      shown.replaceChildren(...nodes);
    } catch (error) {
      said.textContent = `${error.message}.`;
      shown.replaceChildren();
      const wrong = FIELDS.find(name => error.message.startsWith(name));
      if (wrong) form.elements[wrong].setAttribute("aria-invalid", "true");
    }
    line.replaceChildren(code("From a checkout", commandLine(values)));
  }

  function fromHash() {
    const values = readHash(location.hash);
    for (const name of FIELDS) form.elements[name].value = values[name];
    draw(values);
  }

  form.addEventListener("input", () => {
    const values = Object.fromEntries(FIELDS.map(name => [name, form.elements[name].value.trim()]));
    history.replaceState(null, "", writeHash(values));
    draw(values);
  });
  form.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", () => {
    fromHash();
    heading.scrollIntoView(); // the answer is below a form that fills a phone
  });
  fromHash();
}

window.edgelibDecision = {record: RECORD, decide, choiceText, certaintyText, openText, caveatText, normal, fixed, signed, general};
const root = document.getElementById("decision");
if (root) start(root, RECORD);
