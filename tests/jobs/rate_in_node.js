// Runs the script of a rating page in node, with as much of a browser as it uses, and plays two raters and a worker of
// MTurk. The test puts the study and the script where the comments are, and reads what is printed.
"use strict";
const kept = new Map();
const studyText = JSON.stringify(/*STUDY*/);

function browser(search) {
  const elements = new Map();
  const listeners = {};
  const node = (id) => ({
    id, hidden: false, disabled: false, textContent: "", value: "", checked: false, dataset: {}, tagName: "DIV",
    handlers: {}, children: [], paused: true, src: "",
    addEventListener(what, handler) { this.handlers[what] = handler; },
    append(...more) { this.children.push(...more); },
    focus() {}, load() {}, click() {},
    play() { this.paused = false; return Promise.resolve(); },
    pause() { this.paused = true; },
  });
  const element = (id) => { if (!elements.has(id)) elements.set(id, node(id)); return elements.get(id); };
  element("study").textContent = JSON.parse(studyText);
  element("scores").disabled = true;
  element("rate").hidden = true;
  const form = element("form");
  form.inputs = {};
  form.querySelector = (choice) => {
    const name = choice.match(/name=(\w+)/)[1];
    return (form.inputs[name] ??= node(name));
  };
  const radios = [];
  const document = {
    body: { dataset: { part: "$" + "{part}", audio: "$" + "{audio_base}" } },
    getElementById: element,
    querySelector(choice) {
      if (choice === "input[name=ratings]") return { form };
      return radios.find((radio) => choice.includes('"' + radio.value + '"'));
    },
    querySelectorAll: () => radios,
    createElement(tag) {
      const made = node(tag);
      if (tag === "input") radios.push(made);
      return made;
    },
    addEventListener(what, handler) { listeners[what] = handler; },
  };
  const localStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text) };
  const run = new Function("document", "localStorage", "location", "globals", page + "\nglobals.answers = answers;");
  const globals = {};
  run(document, localStorage, { search }, globals);
  return { element, form, globals, key: (key) => listeners.keydown({ key, target: node("x"), preventDefault() {} }) };
}

const page = pageText();
function pageText() { return (function () {/*PAGE*/}).toString().replace(/^function \(\) \{/, "").replace(/\}$/, ""); }

function begin(window, name) {
  window.element("rater").value = name;
  window.element("begin").handlers.click();
}

const clipOf = (window) => window.element("audio").src.replace("audio/", "").replace(".wav", "");

function rateAll(window, most) {
  const order = [];
  while (!window.element("rate").hidden && order.length < most) {
    order.push(clipOf(window));
    window.element("audio").handlers.ended();
    window.key("3");
    const radio = window.element("scale").children.map((label) => label.children[0]).find((one) => one.value === 3.5);
    radio.handlers.change();
    window.key("Enter");
  }
  return order;
}

const told = {};
let first = browser("");
begin(first, 'A "B", C');
first.key("4");
first.key("Enter");
told.rated_unheard = !first.element("next").disabled;
const before = rateAll(first, 2);
told.left_at = before.length;
first = browser("");
begin(first, 'A "B", C');
told.resumed_at = Number(first.element("place").textContent.split(" ")[1]) - 1;
told.first_order = [...before, ...rateAll(first, 1000)];
told.answers = first.globals.answers();
const part = JSON.parse(kept.get([...kept.keys()][0])).part;
const second = browser("?part=" + (part + 1));
begin(second, "D");
told.second_order = rateAll(second, 1000);
const worker = browser("?part=2&workerId=W&assignmentId=X&turkSubmitTo=" + encodeURIComponent("https:" + "//example.org"));
begin(worker, "");
rateAll(worker, 1000);
told.mturk = { ratings: worker.form.inputs.ratings.value, part: worker.form.inputs.part.value, action: worker.form.action };
console.log(JSON.stringify(told));
