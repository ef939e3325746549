// Runs the models of this folder in the browser. config.json says what there is; every file is held against SHA256SUMS.

import { sha256 } from "./sha256.js";

const WARM = 2; // steps before the clock counts
const PAINT = 30; // milliseconds after which the page is drawn again

const status = document.getElementById("status");
let turn = 0; // of the race that may go on; a newer one stops it
let running; // the section that it is in

async function main() {
  if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly, which the networks run in.");
  const files = new Files(await checksums());
  const config = JSON.parse(new TextDecoder().decode(await files.get("config.json")));
  const runtime = await files.get("runtime/ort.wasm");
  if (!WebAssembly.validate(runtime)) {
    throw new Error(
      "This browser's WebAssembly lacks SIMD, and ONNX Runtime Web has no build without it. " +
        "Chrome 91, Firefox 89, Safari 16.4 and newer ones have it.",
    );
  }
  const ort = await import("./runtime/ort.js");
  ort.env.wasm.numThreads = 1; // more would ask for headers that a plain file server does not send
  ort.env.wasm.wasmBinary = runtime.buffer;
  ort.env.wasm.wasmPaths = { mjs: new URL("runtime/ort-wasm.js", document.baseURI).href };
  status.textContent = "";
  for (const demo of config.demos) await show(demo, ort, files);
  document.body.dataset.ready = "yes";
}

/** The files of this folder, none of which is used before its checksum is right. */
class Files {
  constructor(sums) {
    this.sums = sums;
  }

  async get(path) {
    status.textContent = `Loading ${path}`;
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`The file ${path} is missing (${answer.status}).`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const found = sha256(bytes);
    if (found !== this.sums.get(path)) {
      const wanted = this.sums.get(path) ?? "listed in SHA256SUMS";
      throw new Error(`The file ${path} is damaged: its SHA-256 must be ${wanted}, but is ${found}. Copy the folder anew.`);
    }
    return bytes;
  }
}

async function checksums() {
  const answer = await fetch("SHA256SUMS");
  if (!answer.ok) throw new Error(`The file SHA256SUMS is missing (${answer.status}).`);
  const lines = (await answer.text()).trim().split("\n");
  return new Map(lines.map((line) => [line.slice(66), line.slice(0, 64)]));
}

async function show(demo, ort, files) {
  const section = element("section", { id: demo.kind });
  section.append(element("h2", {}, demo.title), element("p", {}, demo.about));
  const form = element("form");
  const text = element("input", { name: "text", value: demo.text, autocomplete: "off", autocapitalize: "none" });
  text.spellcheck = false;
  form.append(labelled(demo.kind === "words" ? "A beginning" : "A word", text, "text"));
  const heat = element("input", { name: "temperature", type: "range", min: 0, max: 1.5, step: 0.1, value: 0.8 });
  if (demo.kind === "words") form.append(labelled("Likeliest words … any words", heat));
  form.append(element("button", {}, demo.kind === "words" ? "Write on" : "Pronounce"));
  const note = element("p", { role: "status", class: "spoken" });
  const grid = element("div", { class: "lanes" });
  section.append(form, note, grid);
  document.querySelector("main").append(section);
  const lanes = [];
  for (const model of demo.models) {
    const lane = new Lane(model, demo.kind);
    grid.append(lane.card);
    try {
      const session = await ort.InferenceSession.create(await files.get(model.file), { executionProviders: ["wasm"] });
      lane.task = new TASKS[demo.kind](demo, model, session, ort);
      lanes.push(lane);
    } catch (error) {
      lane.fail(error);
    }
  }
  status.textContent = "";
  let seed = 1;
  const go = (again) => {
    if (again) seed += 1;
    return race(section, lanes, note, { ...demo, text: text.value, temperature: Number(heat.value), seed });
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(demo.kind === "words");
  });
  if (demo.kind === "spelling") text.addEventListener("input", () => go(false));
  await go(false);
}

/** Let every lane run the same task; the one that has used the least time makes the next step. */
async function race(section, lanes, note, asked) {
  const mine = ++turn;
  if (running) delete running.dataset.running;
  running = section;
  section.dataset.running = "yes";
  note.className = "spoken";
  try {
    for (const lane of lanes) lane.begin(asked);
    note.textContent = "";
  } catch (error) {
    note.className = "error";
    note.textContent = error.message;
    delete section.dataset.running;
    return;
  }
  let painted = performance.now();
  for (let lane = next(lanes); lane && mine === turn; lane = next(lanes)) {
    try {
      await lane.step();
    } catch (error) {
      lane.fail(error);
    }
    if (performance.now() - painted > PAINT) {
      for (const each of lanes) each.paint(lanes[0]);
      await new Promise((resolve) => setTimeout(resolve));
      painted = performance.now();
    }
  }
  if (mine !== turn) return;
  for (const each of lanes) each.paint(lanes[0]);
  note.textContent = lanes.map((lane) => lane.summary()).join(" ");
  delete section.dataset.running;
}

function next(lanes) {
  const left = lanes.filter((lane) => lane.task && lane.done < lane.steps);
  return left.reduce((best, lane) => (best && best.used <= lane.used ? best : lane), null);
}

/** One network on the page: its name, size, time per step, bar and text. */
class Lane {
  constructor(model, kind) {
    this.model = model;
    this.unit = kind === "words" ? "step" : "word";
    this.bar = element("progress", { max: 1, value: 0, "aria-label": `${model.name}: how far it is` });
    this.time = element("b", { class: "time" }, "–");
    this.faster = element("span", { class: "faster" }, "\u00a0");
    this.output = element("output", { class: kind === "words" ? "text" : "symbols", "aria-live": "off" });
    const facts = element("p", { class: "facts" });
    facts.append(element("span", {}, size(model.bytes)), this.time, this.faster);
    this.card = element("article", { class: "lane" });
    this.card.dataset.model = model.name;
    this.card.append(element("h3", {}, model.name), facts, this.bar, this.output);
  }

  begin(asked) {
    if (!this.task) return;
    this.steps = WARM + this.task.begin(asked);
    this.done = this.used = 0;
    this.times = [];
  }

  async step() {
    const time = await this.task.step(this.done < WARM);
    this.done += 1;
    if (this.done <= WARM) return;
    this.times.push(time);
    this.used += time;
  }

  /** Of a step: the mean of the middle half, since the clock is coarse, and other programs interrupt. */
  get milliseconds() {
    const cut = Math.floor(this.times.length / 4);
    const middle = [...this.times].sort((a, b) => a - b).slice(cut, this.times.length - cut);
    return middle.reduce((sum, time) => sum + time, 0) / middle.length;
  }

  paint(first) {
    if (!this.task) return;
    this.bar.value = this.done / this.steps;
    this.output.textContent = this.task.text();
    if (!(this.done > WARM)) return;
    this.card.dataset.milliseconds = this.milliseconds;
    this.time.textContent = `${rounded(this.milliseconds)} ms per ${this.unit}`;
    const times = rounded(first.milliseconds / this.milliseconds);
    this.faster.textContent = first === this ? "the measure of the others" : `${times} × as fast`;
  }

  summary() {
    return this.task ? `${this.model.name}: ${rounded(this.milliseconds)} ms per ${this.unit}.` : "";
  }

  fail(error) {
    this.task = null;
    this.output.textContent = error.message;
    this.output.className = "error";
  }
}

/** Run a network: its outputs, and the milliseconds that it took. */
async function timed(session, inputs) {
  const start = performance.now();
  const found = await session.run(inputs);
  return [found, performance.now() - start];
}

/** A language model: reads a beginning, then draws word after word. */
class Words {
  constructor(demo, model, session, ort) {
    Object.assign(this, { demo, model, session, ort });
    this.numbers = new Map(demo.words.map((word, number) => [word, number]));
  }

  begin({ text, temperature, seed, length }) {
    this.read = text.split(/\s+/).filter(Boolean).map((word) => this.number(word));
    if (!this.read.length) this.read = [this.numbers.get("<eos>") ?? 0];
    this.written = [];
    this.position = 0;
    this.temperature = temperature;
    this.random = generator(seed);
    this.state = Object.fromEntries(this.model.states.map((state) => [state.input, this.zeros(state.shape)]));
    return this.read.length - 1 + length;
  }

  number(word) {
    const number = [word, word.toLowerCase(), "<unk>"].map((form) => this.numbers.get(form)).find((n) => n !== undefined);
    if (number === undefined) throw new Error(`“${word}” is none of the ${this.numbers.size} words that the model knows.`);
    return number;
  }

  zeros(shape) {
    const sizes = shape.map((length) => (length === "batch" ? 1 : length));
    return new this.ort.Tensor("float32", new Float32Array(sizes.reduce((a, b) => a * b, 1)), sizes);
  }

  async step(isWarming) {
    const word = this.read[this.position] ?? this.written.at(-1);
    const input = new this.ort.Tensor("int64", BigInt64Array.of(BigInt(word)), [1, 1]);
    const [found, time] = await timed(this.session, { [this.model.input]: input, ...this.state });
    if (isWarming) return time;
    this.position += 1;
    for (const state of this.model.states) this.state[state.input] = found[state.output];
    if (this.position >= this.read.length) this.written.push(this.draw(found[this.model.output].data));
    return time;
  }

  draw(logits) {
    for (const word of this.demo.never) logits[word] = -Infinity;
    const best = logits.reduce((high, value, word) => (value > logits[high] ? word : high), 0);
    if (!(Math.abs(logits[best]) < Infinity)) throw new Error("The model gives no finite number for any word.");
    if (this.temperature === 0) return best;
    const weights = Float64Array.from(logits, (value) => Math.exp((value - logits[best]) / this.temperature));
    let left = this.random() * weights.reduce((a, b) => a + b);
    const word = weights.findIndex((weight) => (left -= weight) < 0);
    return word < 0 ? best : word;
  }

  text() {
    const words = [...this.read, ...this.written].map((number) => this.demo.words[number]);
    return words.join(" ").replaceAll("<eos>", "\n").replaceAll(/ ?\n ?/g, "\n").trimStart();
  }
}

/** Letters in, symbols out: the whole word is one step, and it is repeated so that the clock has something to count. */
class Spelling {
  constructor(demo, model, session, ort) {
    Object.assign(this, { demo, model, session, ort });
  }

  begin({ text, length }) {
    const letters = [...text.trim().toLowerCase()];
    const numbers = letters.map((letter) => this.demo.letters.indexOf(letter));
    const wrong = letters[numbers.indexOf(-1)];
    if (wrong !== undefined) throw new Error(`“${wrong}” is none of the letters ${this.demo.letters.filter((l) => l.length === 1).join("")}.`);
    if (!numbers.length) throw new Error("Type a word.");
    numbers.push(this.demo.end);
    this.input = new this.ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [numbers.length]);
    this.found = [];
    return length;
  }

  async step() {
    const [found, time] = await timed(this.session, { [this.model.input]: this.input });
    this.found = Array.from(found[this.model.output].data, (number) => this.demo.symbols[Number(number)]);
    return time;
  }

  text() {
    return this.found.join(" ");
  }
}

const TASKS = { words: Words, spelling: Spelling };

/** Numbers in [0, 1) that are the same for the same seed: a linear congruential generator of 32 bits, upper bits used. */
function generator(seed) {
  let state = seed >>> 0;
  const draw = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
  for (let i = 0; i < 8; i++) draw(); // small seeds begin alike
  return draw;
}

function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function labelled(text, input, kind = "") {
  const label = element("label", { class: kind }, text);
  label.append(input);
  return label;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function rounded(value) {
  return Number.isFinite(value) ? Number(value.toPrecision(2)).toString() : "–";
}

main().catch((error) => {
  status.className = "error";
  status.textContent = error.message;
});
