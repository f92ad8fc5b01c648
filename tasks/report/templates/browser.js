/* The browser of completions. Its data is JSON in the page (tasks/report/browser.py); model text is put in as text
   nodes only, never as HTML. A live page sends newer data: dispatchEvent(new CustomEvent("completions", {detail: data})). */
"use strict";
(() => {
  const byId = id => document.getElementById(id);
  const form = byId("browser-filters"), list = byId("browser-questions"), shown = byId("browser-shown");
  const answers = byId("browser-answers"), question = byId("browser-question");
  let data, found = [], current = "", searched = new Map();

  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
  };
  // Each part is isolated, so that one which runs from right to left cannot turn those beside it.
  const line = (parts, between) => parts.filter(Boolean).flatMap((part, i) => [...(i ? [between] : []), make("bdi", "", String(part))]);
  const level = entry => entry.level === null ? "" : `level ${entry.level}`;
  const words = text => (text.cut ? [text.head, make("i", "cut", `… ${text.cut.toLocaleString("en")} characters left out …`), text.tail] : [text.head])
    .flatMap(part => typeof part === "string" ? part.split(/(<\/?(?:think|answer)>)/).map((piece, i) => i % 2 ? make("b", "", piece) : piece) : [part]);
  const block = (text, label) => {
    const element = make("div", "completion", ...words(text));
    element.dir = "auto";  // a right-to-left text turns its own block only
    element.tabIndex = 0;  // long texts scroll inside, from the keyboard too
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", label);
    return element;
  };
  const plain = text => text.head + (text.cut ? ` … ${text.tail}` : "");
  const tone = verdict => verdict.endsWith("correct") ? "good" : verdict.endsWith("wrong") ? "bad" : verdict === "no rule" ? "" : "unsure";

  const choices = (name, values, all) => {
    const select = form.elements[name], before = select.value;
    const options = values.map(([value, label]) => new Option(label, value));
    select.replaceChildren(new Option(all, ""), ...options);
    select.value = values.some(([value]) => String(value) === before) ? before : "";
    select.closest("label").hidden = values.length < 2;
  };
  const distinct = values => [...new Set(values)].filter(value => value !== null && value !== "").sort().map(value => [value, value]);

  const haystack = entry => {
    if (!searched.has(entry.id)) {
      const texts = entry.samples.flatMap(sample => [sample.thinking, sample.text]).filter(Boolean).map(plain);
      searched.set(entry.id, [entry.id, plain(entry.prompt), plain(entry.answer), ...texts].join("\n").toLowerCase());
    }
    return searched.get(entry.id);
  };
  const wanted = () => Object.fromEntries(new FormData(form));
  const fits = (sample, filter) => (!filter.verdict || sample.verdict === filter.verdict) && (!filter.column || data.columns[sample.column].name === filter.column);

  const filtered = () => {
    const filter = wanted(), search = filter.search.trim().toLowerCase();
    found = data.questions.filter(entry =>
      ["domain", "level", "language", "source"].every(name => !filter[name] || String(entry[name]) === filter[name])
      && (!(filter.verdict || filter.column) || entry.samples.some(sample => fits(sample, filter)))
      && (!search || haystack(entry).includes(search)));
    list.replaceChildren(...found.map(entry => {
      const marks = [entry.domain, level(entry)].filter(Boolean).join(", ");
      const line = plain(entry.prompt).replace(/\s+/g, " ");
      return new Option(`${marks}: ${line.length > 160 ? `${line.slice(0, 160)}…` : line}`, entry.id);
    }));
    byId("browser-count").textContent = `${found.length} of ${data.questions.length} questions`;
    choose(found.some(entry => entry.id === current) ? current : found.length ? found[0].id : "");
  };

  const choose = id => {
    current = list.value = id;
    const at = found.findIndex(entry => entry.id === id), entry = found[at];
    byId("browser-previous").disabled = at <= 0;
    byId("browser-next").disabled = at < 0 || at === found.length - 1;
    question.replaceChildren();
    answers.replaceChildren();
    if (!entry) return;
    const facts = line([entry.domain, level(entry), entry.language, entry.source, entry.id], ", ");
    question.append(block(entry.prompt, "Question"), make("p", "note about", ...facts));
    if (entry.answer.head) question.append(make("p", "note", "Reference answer: ", make("bdi", "", ...words(entry.answer))));
    const visible = new Set([...shown.querySelectorAll("input:checked")].map(box => box.value));
    data.columns.forEach((column, index) => {
      const samples = entry.samples.filter(sample => sample.column === index);
      if (samples.length && visible.has(column.name)) answers.append(card(column, samples));
    });
  };

  const card = (column, samples) => {
    const filter = wanted(), body = make("div", "");
    const swatch = make("i", "swatch");
    swatch.style.background = column.color;
    const head = make("h4", "", swatch, make("bdi", "", column.title));
    const element = make("article", "answer", head, body);
    element.setAttribute("aria-label", column.title);
    const { right, of } = samples[0];
    if (of) head.append(make("small", "", right === null ? `${of} samples` : `${right} of ${of} correct`));
    const show = sample => body.replaceChildren(...details(sample, column));
    const first = Math.max(0, samples.findIndex(sample => fits(sample, filter)));
    if (samples.length > 1) {
      const select = make("select", "", ...samples.map((sample, i) => new Option(`sample ${sample.index}: ${sample.verdict}`, i)));
      select.setAttribute("aria-label", `Sample of ${column.title}`);
      select.value = first;
      select.addEventListener("change", () => show(samples[select.value]));
      body.before(select);
    }
    show(samples[first]);
    return element;
  };

  const details = (sample, column) => {
    const facts = [`${sample.tokens.toLocaleString("en")} tokens`, ...(sample.end === "length" ? ["cut off at the limit"] : [])];
    const rewards = Object.entries(sample.rewards).map(([name, value]) => `${name} ${value}`);
    if (sample.reward !== null) rewards.unshift(`reward ${sample.reward}`);
    const parts = [
      make("p", "line", make("bdi", `verdict ${tone(sample.verdict)}`, sample.verdict), make("small", "", facts.join(", "))),
      make("p", "line rewards", make("small", "", ...line(rewards.length ? rewards : ["no reward"], " · "))),
    ];
    if (sample.thinking) {
      const fold = make("details", "", make("summary", "", `Thinking, ${sample.thinking.size.toLocaleString("en")} characters`));
      fold.append(block(sample.thinking, `Thinking of ${column.title}`));
      parts.push(fold);
    }
    return [...parts, block(sample.text, `Completion of ${column.title}`)];
  };

  const load = next => {
    data = next;
    searched = new Map();
    const before = new Map([...shown.querySelectorAll("input")].map(box => [box.value, box.checked]));
    const outside = data.columns.some(column => column.step === null);
    shown.replaceChildren(...data.columns.map(column => {
      const box = Object.assign(make("input", ""), { type: "checkbox", value: column.name });
      box.checked = before.has(column.name) ? before.get(column.name) : column.step === null || !outside;
      return make("label", "", box, make("bdi", "", column.title));
    }));
    choices("domain", distinct(data.questions.map(entry => entry.domain)), "all domains");
    choices("level", distinct(data.questions.map(entry => entry.level)), "all levels");
    choices("language", distinct(data.questions.map(entry => entry.language)), "all languages");
    choices("source", distinct(data.questions.map(entry => entry.source)), "all sources");
    choices("verdict", distinct(data.questions.flatMap(entry => entry.samples.map(sample => sample.verdict))), "any verdict");
    choices("column", data.columns.map(column => [column.name, column.title]), "any checkpoint");
    byId("browser-note").textContent = data.note;
    filtered();
  };

  const step = by => {
    const at = found.findIndex(entry => entry.id === current) + by;
    if (found[at]) choose(found[at].id);
  };
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", filtered);
  form.addEventListener("reset", () => setTimeout(filtered));  // the fields are empty after this event only
  shown.addEventListener("change", () => choose(current));
  list.addEventListener("change", () => choose(list.value));
  byId("browser-previous").addEventListener("click", () => step(-1));
  byId("browser-next").addEventListener("click", () => step(1));
  addEventListener("completions", event => load(event.detail));
  load(JSON.parse(byId("browser-data").textContent));
  byId("browser").hidden = false;
})();
