// Sliders that ask the planner; nothing is computed here.

const $ = (selector) => document.querySelector(selector);
const number = (value, digits = 3) => value.toLocaleString('en', { maximumSignificantDigits: digits });
const share = (value) => (100 * value).toFixed(1) + '%';
const power = (value) => (value >= 2 ** 20 ? value / 2 ** 20 + 'M' : value >= 2 ** 10 ? value / 2 ** 10 + 'K' : String(value));
const gigabytes = (value) => number(value / 1e9) + ' GB';
const seconds = (value) => number(value) + ' s';

// A slider's places -> values: powers of two, or of ten in steps.
const twos = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => 2 ** (low + i));
const steps = (low, high, step) => Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => +(low + i * step).toFixed(6));
const tens = (low, high) => steps(low, high, 1).flatMap((e) => (e < high ? [1, 2, 3, 5, 7].map((d) => d * 10 ** e) : [10 ** e]));

const FIELDS = (choices) => {
  const model = { name: 'model', label: 'Model', choices: Object.keys(choices.models), start: 'llama-3.1-405b' };
  const gpu = { name: 'gpu', label: 'GPU', choices: Object.keys(choices.gpus), start: 'h100' };
  const gpus = { name: 'gpus', label: 'GPUs', values: twos(0, 17), start: 16384, show: (v) => v.toLocaleString('en') };
  const context = { name: 'context', label: 'Tokens a sequence', values: twos(9, 17), start: 8192, show: power };
  return {
    train: [model, gpu, { name: 'stack', label: 'Software', choices: Object.keys(choices.stacks), start: 'meta' },
      { name: 'precision', label: 'Products in', choices: ['bf16', 'fp8'], start: 'bf16' }, gpus, context,
      { name: 'batch', label: 'Tokens a step', values: twos(13, 26), start: 2 ** 24, show: power },
      { name: 'tokens', label: 'Tokens of the run', values: tens(9, 14), start: 2e13, show: (v) => number(v / 1e12, 4) + ' T' },
      { name: 'dollars', label: 'Dollars a GPU hour', values: steps(0.5, 10, 0.1), start: 2.5, show: (v) => '$' + v.toFixed(2) }],
    serve: [model, gpu, context, { name: 'sequences', label: 'Sequences at once', values: twos(0, 12), start: 8, show: power }],
    faults: [gpus, { name: 'days', label: 'Days', values: steps(1, 100, 1), start: 54, show: String },
      { name: 'detection', label: 'Until a failure is noticed', values: tens(0, 3), start: 50, show: seconds },
      { name: 'restart', label: 'Until the job computes again', values: tens(1, 4), start: 300, show: seconds },
      { name: 'interval', label: 'Between checkpoints', values: tens(1, 4), start: 500, show: seconds },
      { name: 'stall', label: 'A checkpoint stops the job', values: [0, ...tens(-1, 2)], start: 3, show: seconds },
      { name: 'spares', label: 'Spare servers', values: [0, ...twos(0, 10)], start: 64, show: String }],
  };
};

let fields, shown = 'train', latest = 0, waiting = null;
const chosen = { }; // by name, the same for all three

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function slider(field) {
  const output = make('output');
  const label = make('label', {}, make('span', { textContent: field.label }), output);
  chosen[field.name] ??= field.start;
  let control;
  if (field.choices) {
    control = make('select', { name: field.name }, ...field.choices.map((one) => make('option', { value: one, textContent: one })));
    control.value = chosen[field.name];
  } else {
    const nearest = field.values.reduce((best, v, i) => (Math.abs(v - chosen[field.name]) < Math.abs(field.values[best] - chosen[field.name]) ? i : best), 0);
    control = make('input', { type: 'range', name: field.name, min: 0, max: field.values.length - 1, value: nearest });
  }
  const take = () => {
    chosen[field.name] = field.choices ? control.value : field.values[control.value];
    if (!field.choices) {
      output.value = field.show(chosen[field.name]);
      control.setAttribute('aria-valuetext', output.value);
    }
  };
  control.addEventListener('input', () => { take(); later(); });
  take();
  label.append(control);
  return label;
}

function show(kind) {
  shown = kind;
  for (const button of document.querySelectorAll('[data-show]')) button.setAttribute('aria-pressed', button.dataset.show === kind);
  $('#sliders').replaceChildren(...fields[kind].map(slider));
  ask();
}

function later() {
  clearTimeout(waiting);
  waiting = setTimeout(ask, 120);
}

async function ask() {
  const mine = ++latest;
  $('#found').classList.add('old');
  const query = new URLSearchParams(fields[shown].map((field) => [field.name, chosen[field.name]]));
  history.replaceState(null, '', `#${shown}?${query}`);
  const response = await fetch(`/api/${shown}?${query}`).then((r) => r.json(), (error) => ({ error: `the planner does not answer (${error.message})` }));
  if (mine !== latest) return;
  $('#notice').hidden = !response.error;
  $('#notice').textContent = response.error ?? '';
  $('#found').replaceChildren(...(response.error ? [] : DRAW[shown](response)));
  $('#found').classList.remove('old');
}

function table(names, rows) {
  const head = make('tr', {}, ...names.map((name) => make('th', { textContent: name })));
  const body = rows.map((row) => make('tr', {}, ...row.map((cell) => make('td', { textContent: cell }))));
  return make('table', {}, make('thead', {}, head), make('tbody', {}, ...body));
}

function bar(parts, unit, whole = null) {
  const kept = Object.entries(parts).filter(([, value]) => value > 0);
  const total = whole ?? kept.reduce((sum, [, value]) => sum + value, 0);
  const line = make('div', { className: 'bar' });
  for (const [name, value] of kept) {
    const piece = make('span', { title: `${name}: ${unit(value)}` });
    piece.style.width = (100 * value) / total + '%';
    line.append(piece);
  }
  return [line, make('p', { className: 'parts', textContent: kept.map(([name, value]) => `${name} ${unit(value)}`).join(' · ') })];
}

const DRAW = {
  train({ plans, rejected, rests, room }) {
    const reasons = [make('h2', { textContent: 'Rejected layouts' }),
      table(['because', 'layouts', 'such as'], rejected.map(([kind, count, example]) => [kind, count.toLocaleString('en'), example]))];
    if (!plans.length) return [make('h2', { textContent: 'No layout goes' }), ...reasons];
    const rows = plans.map((p) => [p.layout, seconds(p.step), share(p.mfu), number(p.tflops), share(p.time.bubble / p.step), gigabytes(p.used),
      number(p.days), number(p.gpu_hours), '$' + number(p.dollars), number(p.kwh / 1000), number(p.tonnes_co2)]);
    return [make('h2', { textContent: 'The fastest layouts' }),
      table(['layout', 'step', 'MFU', 'TFLOPs', 'bubble', 'memory', 'days', 'GPU hours', 'cost', 'MWh', 't CO2'], rows),
      make('h2', { textContent: 'A step of the first' }), ...bar(plans[0].time, seconds),
      make('h2', { textContent: `Its memory, of ${gigabytes(room)}` }), ...bar(plans[0].memory, gigabytes, room),
      ...reasons, make('p', { className: 'soft', textContent: 'Rests on ' + rests.join('; ') + '.' })];
  },
  serve({ services }) {
    const rows = services.map((s) => [s.numbers, s.gpus, s.servers, `TP${s.tp} PP${s.pp}`, gigabytes(s.weights), gigabytes(s.cache), gigabytes(s.room),
      number(s.decode), number(s.decode_all), number(s.prefill)]);
    return [make('h2', { textContent: 'The fewest GPUs that hold weights and cache' }),
      table(['numbers', 'GPUs', 'servers', 'layout', 'weights', 'cache', 'to spare', 'tokens/s alone', 'together', 'prompts'], rows),
      make('p', { className: 'soft', textContent: 'At best: memory bandwidth for decoding, the matrix units’ peak for prompts; 4 GB a GPU kept for the runtime.' })];
  },
  faults({ effective, failures, lost, young, daly }) {
    const interval = (value) => (value === null || value > 1e12 ? 'never' : seconds(value));
    return [make('h2', { id: 'effective', textContent: `Effective time ${share(effective[0])}, 95% of runs within ${share(effective[1])} and ${share(effective[2])}` }),
      ...bar({ useful: effective[0], ...lost }, share, 1),
      make('p', { textContent: `${number(failures)} failures a run. Checkpoints cost least every ${interval(young)} (Young), ${interval(daly)} (Daly).` }),
      make('p', { className: 'soft', textContent: 'Causes and counts of Llama 3’s pre-training (Table 5), 100 simulated runs.' })];
  },
};

$('#theme').addEventListener('click', () => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const now = document.documentElement.dataset.theme ?? (dark ? 'dark' : 'light');
  document.documentElement.dataset.theme = now === 'dark' ? 'light' : 'dark';
});
$('#sliders').addEventListener('submit', (event) => event.preventDefault());
for (const button of document.querySelectorAll('[data-show]')) button.addEventListener('click', () => show(button.dataset.show));
fields = FIELDS(await fetch('/api/choices').then((response) => response.json()));
const [kind, query] = location.hash.slice(1).split('?');
for (const [name, value] of new URLSearchParams(query)) chosen[name] = isNaN(value) ? value : +value;
show(kind in fields ? kind : 'train');
