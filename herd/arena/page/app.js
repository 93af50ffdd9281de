// The arena's page: what is on the screen, and what clicks and keys do. It knows no model's name until a vote was taken.

import { render } from "/page/markdown.js";
import { LANGUAGES, TEXTS } from "/arena/languages.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
let words = TEXTS.en;
let about = { stored: false, longest: 8000 };
let round = null; // { id, question, left, right, before: [{ question, left, right }], state: "coming" | "ended" | "failed", voting, vote }
let running = null; // the AbortController of the answers that are coming
let kept = {}; // what this browser remembers

// Small pieces

function remember(name, value) {
  try {
    localStorage.setItem(`herd-arena-${name}`, value);
  } catch {
    kept[name] = value; // not allowed: it lasts as long as the page
  }
}

function recall(name) {
  try {
    return localStorage.getItem(`herd-arena-${name}`) ?? kept[name];
  } catch {
    return kept[name];
  }
}

function option(value, text) {
  return Object.assign(document.createElement("option"), { value, textContent: text });
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function explained(error) {
  return words[`error_${error.code}`] ?? error.message ?? words.error_network;
}

async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : { code: "network" };
  }
  if (!response.ok) throw (await response.json().catch(() => ({}))).error ?? { code: "network" };
  return response;
}

// A round

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n\n");
    held = lines.pop();
    for (const line of lines) yield JSON.parse(line.slice(6));
  }
}

async function ask() {
  const question = $("question").value.trim();
  if (!about.stored && !question) return notice(words.error_empty);
  const on = goesOn() ? round : null;
  running?.abort();
  const stop = (running = new AbortController());
  const before = on ? [...on.before, { question: on.question, left: on.left, right: on.right }] : [];
  const mine = (round = { id: "", question, left: "", right: "", before, state: "coming", voting: false, vote: null });
  notice("");
  show();
  try {
    for await (const event of events(await post("/api/ask", { question: about.stored ? null : question, round: on?.id }, stop.signal))) {
      if (round !== mine) return;
      if (event.round) {
        Object.assign(mine, { id: event.round, question: event.question });
        $("question").value = "";
        $("question").blur(); // so that keys vote
      }
      for (const side of SIDES) mine[side] += event[side] ?? "";
      if (event.failed) mine.state = "failed";
      if (event.ended) mine.state = "ended";
      show();
    }
    if (mine.state === "coming") throw { code: "network" };
  } catch (error) {
    if (round !== mine || error.name === "AbortError") return;
    mine.state = "failed";
    if (!mine.id) round = on; // nothing has begun
    show();
    notice(explained(error));
  } finally {
    if (running === stop) running = null;
  }
}

const goesOn = () => !about.stored && round?.id && !round.vote && !round.voting && round.state === "ended";

const open = () => round && round.id && !round.vote && !round.voting && round.state !== "failed" && (round.state === "ended" || round.before.length > 0 || (round.left && round.right));

async function vote(winner) {
  const mine = round;
  if (!open()) return;
  mine.voting = true;
  show();
  try {
    const said = await (await post("/api/vote", { round: mine.id, winner })).json();
    mine.vote = said;
    notice("");
  } catch (error) {
    if (round === mine) notice(explained(error));
  }
  mine.voting = false;
  if (round === mine) show();
  if (mine.vote) $("next").focus();
}

function next() {
  running?.abort();
  round = null;
  notice("");
  show();
  if (about.stored) ask();
  else $("question").focus();
}

function show() {
  $("intro").hidden = Boolean(round);
  $("answers").hidden = !round;
  $("asked").hidden = !round?.question;
  $("asked").textContent = round?.question ?? "";
  for (const side of SIDES) {
    const box = $(side);
    const text = round?.[side] ?? "";
    earlier(box.querySelector(".before"), side);
    if (box.dataset.shown !== text) render(box.querySelector(".text"), text);
    box.dataset.shown = text;
    box.querySelector("h2").textContent = round?.vote?.[side] ?? words[`${side}_name`];
    box.classList.toggle("chosen", Boolean(round?.vote) && [side, "both good"].includes(round.vote.winner));
  }
  const voted = Boolean(round?.vote);
  $("votes").hidden = !round || voted || round.state === "failed";
  for (const button of $("votes").children) button.disabled = !open();
  $("next").hidden = !voted && round?.state !== "failed";
  $("form").hidden = Boolean(round) && !$("next").hidden;
  $("send").disabled = round?.state === "coming" && !voted;
  $("question").placeholder = words[goesOn() ? "go_on" : "question"];
  $("question").hidden = $("send").hidden = about.stored;
  $("draw").hidden = !about.stored || Boolean(round);
  $("status").textContent = status();
}

// The turns before this one. They do not change: what is drawn stays.
function earlier(box, side) {
  const turns = round?.before ?? [];
  const key = turns.length ? `${turns.length} ${turns[0].question} ${turns[0][side]}` : "";
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(
    ...turns.flatMap((turn) => {
      const answer = Object.assign(document.createElement("div"), { className: "said" });
      render(answer, turn[side]);
      return [Object.assign(document.createElement("p"), { className: "question", dir: "auto", textContent: turn.question }), answer];
    }),
  );
}

function status() {
  if (!round) return "";
  if (round.state === "failed") return words.failed;
  if (round.vote) return round.vote.excluded ? words[`excluded_${round.vote.excluded}`] : words.thanks;
  return open() && round.state === "ended" && !about.stored ? `${words.which} ${words.or_go_on}` : open() ? words.which : words.coming;
}

// The ranking

function view(name) {
  for (const one of ["round", "ranking"]) {
    $(one).hidden = one !== name;
    $(`show-${one}`).setAttribute("aria-pressed", one === name);
  }
  if (name === "ranking") ranking();
}

async function ranking() {
  const asked = new URLSearchParams();
  for (const name of ["language", "kind"]) if ($(`by-${name}`).value !== "*") asked.set(name, $(`by-${name}`).value);
  let found;
  try {
    const response = await fetch(`/api/ranking?${asked}`);
    if (!response.ok) throw response;
    found = await response.json();
  } catch {
    $("counted").textContent = words.error_network;
    return;
  }
  const number = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 0 });
  choices("language", found.languages);
  choices("kind", found.kinds);
  $("counted").textContent = `${words.counted}: ${number.format(found.votes)}${found.helped ? ` · ${words.helped}` : ""}`;
  $("rows").replaceChildren(
    ...found.rows.map((row) => {
      const line = document.createElement("tr");
      const rank = row.best === row.worst ? `${row.best}` : `${row.best}–${row.worst}`;
      const cells = [rank, row.name, number.format(row.points), `${number.format(row.low)} – ${number.format(row.high)}`, number.format(row.votes)];
      line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return line;
    }),
  );
}

function choices(name, counts) {
  const menu = $(`by-${name}`);
  const chosen = menu.value;
  const label = (value) => (name === "kind" ? (words[`kind_${value}`] ?? value) : (LANGUAGES[value] ?? words.unknown));
  menu.replaceChildren(option("*", words.all), ...Object.keys(counts).sort().map((value) => option(value, `${label(value)} (${counts[value]})`)));
  menu.value = chosen;
}

// Language and theme

function speak(language) {
  words = { ...TEXTS.en, ...TEXTS[language] };
  document.documentElement.lang = language;
  document.title = words.title;
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = words[one.dataset.text];
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", words[one.dataset.label]);
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = words[one.dataset.placeholder];
  $("language").value = language;
  show();
  if (!$("ranking").hidden) ranking();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
$("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!$("send").disabled) ask();
  }
};
$("votes").onclick = (event) => vote(event.target.closest("button")?.dataset.winner);
$("next").onclick = next;
$("show-round").onclick = () => view("round");
$("show-ranking").onclick = () => view("ranking");
$("by-language").onchange = $("by-kind").onchange = ranking;
$("language").onchange = (event) => {
  remember("language", event.target.value);
  speak(event.target.value);
};
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  theme(dark ? "light" : "dark");
  remember("theme", dark ? "light" : "dark");
};
document.addEventListener("click", (event) => {
  if (!event.target.classList.contains("copy")) return;
  navigator.clipboard?.writeText(event.target.closest(".code").querySelector("code").textContent);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || ["TEXTAREA", "INPUT", "SELECT"].includes(event.target.tagName) || $("round").hidden) return;
  const winner = { 1: "left", 2: "right", 3: "both good", 4: "both bad" }[event.key];
  if (winner) vote(winner);
  else if (event.key.toLowerCase() === "n" && round) next();
  else if (event.key === "/") $("question").focus();
  else return;
  event.preventDefault();
});

for (const name of ["language", "kind"]) $(`by-${name}`).append(option("*", "")); // "" is what no rule could name
$("language").append(...Object.entries(LANGUAGES).map(([code, name]) => option(code, name)));
if (recall("theme")) theme(recall("theme"));
const wanted = [recall("language"), ...navigator.languages.map((one) => one.slice(0, 2))];
speak(wanted.find((one) => one in TEXTS) ?? "en");
fetch("/api/about").then((response) => response.json()).then((said) => {
  about = said;
  $("question").maxLength = said.longest;
  show();
}, () => notice(words.error_network));
