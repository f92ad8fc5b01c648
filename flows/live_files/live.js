/* Asks for the state of the run every few seconds. What strangers wrote (completions, names) is put in as text only. */
"use strict";
const POLL_MS = 2000, CURVES_MS = 6000;
const byId = id => document.getElementById(id);
// An address with a user's name and password in it is refused by fetch: the origin alone has none.
const address = path => new URL(path, location.origin);
let chosen = "", curves = "", curvesAt = 0, samples = "";

const make = (tag, className, ...children) => {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
};

const text = (className, words) => {
  const element = make("div", className, words);
  element.dir = "auto";  // a right-to-left text turns its own block only
  return element;
};

const bar = work => {
  const progress = make("progress", "");
  if (work.total) Object.assign(progress, { max: work.total, value: work.done });
  const counted = work.total ? `${work.done} of ${work.total}` : "";
  const words = [counted, work.text, work.left].filter(Boolean).join(" · ");
  return make("p", "", make("b", "", work.title), " ", progress, " ", make("span", "muted", words));
};

const nodeButton = node => {
  const button = make("button", node.state === "made" ? "made" : node.state === "at work" ? "working" : "", node.title);
  button.append(make("small", "", node.state));
  button.setAttribute("aria-pressed", String(node.node === chosen));
  button.addEventListener("click", () => { chosen = chosen === node.node ? "" : node.node; tick(); });
  return button;
};

const card = sample => {
  const tone = sample.verdict === "correct" ? "good" : sample.verdict === "not judged" ? "" : "bad";
  const rewards = Object.entries(sample.rewards).map(([name, value]) => `${name} ${Number(value).toPrecision(3)}`);
  if (sample.reward !== null) rewards.unshift(`reward ${Number(sample.reward).toPrecision(3)}`);
  const facts = [sample.step === null ? "" : `step ${sample.step}`, `${sample.tokens} tokens`, sample.cut_off ? "cut off at the limit" : "", ...rewards];
  const body = [
    make("p", "", make("b", `verdict ${tone}`, sample.verdict), " ", make("small", "muted", facts.filter(Boolean).join(" · "))),
    text("question", sample.question),
  ];
  if (sample.thinking) body.push(make("details", "", make("summary", "", "Thinking"), text("completion", sample.thinking)));
  return make("article", "", ...body, text("completion", sample.text));
};

const showCurves = async shown => {
  const version = shown ? `${shown.node} ${shown.curves}` : "";
  const other = !shown || !curves.startsWith(`${shown.node} `);
  if (version === curves || (!other && Date.now() - curvesAt < CURVES_MS)) return;
  [curves, curvesAt] = [version, Date.now()];
  if (other || !shown.curves) byId("curves-part").hidden = true;
  if (!shown || !shown.curves) return;
  byId("curves-title").textContent = `Curves of ${shown.title}`;
  const image = byId("curves");
  image.onload = () => { byId("curves-part").hidden = false; };
  image.src = address(`curves.svg?node=${encodeURIComponent(shown.node)}&version=${encodeURIComponent(shown.curves)}`);
};

const showSamples = async shown => {
  const version = shown ? `${shown.node} ${shown.samples}` : "";
  const same = shown && samples.startsWith(`${shown.node} `);
  if (version === samples || (same && !byId("follow").checked)) return;
  const found = shown && shown.samples ? await asked(`samples?node=${encodeURIComponent(shown.node)}`) : [];
  samples = version;
  byId("samples-part").hidden = !found.length;
  byId("samples-title").textContent = shown ? `Newest completions of ${shown.title}` : "";
  byId("samples").replaceChildren(...found.map(card));
};

const asked = async path => {
  const answer = await fetch(address(path));
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.detail);
  return document;
};

const tick = async () => {
  try {
    const state = await asked(`state?node=${encodeURIComponent(chosen)}`);
    byId("name").textContent = `Preset ${state.name}`;
    byId("says").textContent = state.says;
    document.title = state.working.length ? `${state.working[0].done}/${state.working[0].total} ${state.name}` : state.name;
    byId("working").replaceChildren(...state.working.map(bar));
    byId("nodes").replaceChildren(...state.nodes.map(nodeButton));
    await showCurves(state.shown);
    await showSamples(state.shown);
  } catch (error) {
    byId("says").textContent = `No answer: ${error.message}. This page asks again.`;
  }
};

const loop = async () => {
  if (!document.hidden) await tick();  // a page that nobody sees costs the job nothing
  setTimeout(loop, POLL_MS);
};
loop();
