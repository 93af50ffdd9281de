// A rater's page: two replies without names and a scale of seven; keys 1 to 7 rate.

import { render } from "/page/markdown.js";
import { LANGUAGES, TEXTS } from "/arena/languages.js";

// Much better, better, slightly better, about the same; all done; wrong link.
const WORDS = {
  en: ["much better", "better", "slightly better", "about the same", "All done. Thank you.", "This link is not valid."],
  de: ["viel besser", "besser", "etwas besser", "etwa gleich", "Alles fertig. Danke.", "Dieser Link ist nicht gültig."],
  fr: ["bien meilleure", "meilleure", "un peu meilleure", "à peu près égales", "Tout est fait. Merci.", "Ce lien n’est pas valable."],
  it: ["molto migliore", "migliore", "un po’ migliore", "circa uguali", "Tutto fatto. Grazie.", "Questo link non è valido."],
  pt: ["muito melhor", "melhor", "um pouco melhor", "mais ou menos iguais", "Tudo feito. Obrigado.", "Este link não é válido."],
  es: ["mucho mejor", "mejor", "un poco mejor", "más o menos iguales", "Todo listo. Gracias.", "Este enlace no es válido."],
  hi: ["बहुत बेहतर", "बेहतर", "थोड़ा बेहतर", "लगभग समान", "सब पूरा हुआ। धन्यवाद।", "यह लिंक मान्य नहीं है।"],
  th: ["ดีกว่ามาก", "ดีกว่า", "ดีกว่าเล็กน้อย", "พอ ๆ กัน", "เสร็จแล้ว ขอบคุณ", "ลิงก์นี้ใช้ไม่ได้"],
};
const $ = (id) => document.getElementById(id);
const rater = new URLSearchParams(location.search).get("rater");
let language = navigator.languages.map((one) => one.slice(0, 2)).find((one) => one in TEXTS) ?? "en";
let state = null;
let failure = "";
let busy = false;

function show() {
  const [texts, words] = [TEXTS[language], WORDS[language]];
  document.documentElement.lang = language;
  $("title").textContent = texts.which;
  $("left-name").textContent = texts.left_name;
  $("right-name").textContent = texts.right_name;
  const there = state?.item !== undefined;
  for (const id of ["asked", "answers", "scale"]) $(id).hidden = !there;
  $("count").textContent = state ? `${state.done} / ${state.total}` : "";
  $("status").textContent = failure ? (failure === "link" ? words[5] : texts.error_network) : state && !there ? words[4] : "";
  $("scale").setAttribute("aria-label", texts.which);
  $("scale").replaceChildren(
    ...[3, 2, 1, 0, -1, -2, -3].map((value, i) => {
      const button = document.createElement("button");
      const side = value > 0 ? `${texts.left_name}: ` : value < 0 ? `${texts.right_name}: ` : "";
      const key = Object.assign(document.createElement("kbd"), { textContent: i + 1 });
      button.append(key, ` ${side}${words[3 - Math.abs(value)]}`);
      button.type = "button";
      button.disabled = busy;
      button.onclick = () => rate(value);
      return button;
    }),
  );
}

async function take(promise) {
  busy = true;
  try {
    const response = await promise;
    const said = await response.json();
    failure = response.ok ? "" : said.error.code;
    if (response.ok) state = said;
  } catch {
    failure = "network";
  }
  busy = false;
  if (state?.item !== undefined) {
    $("asked").textContent = state.question;
    for (const side of ["left", "right"]) {
      render($(side), state[side]);
      $(side).scrollTop = 0;
    }
  }
  show();
}

function rate(value) {
  if (busy || state?.item === undefined) return;
  take(fetch("/api/rate", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ rater, item: state.item, value }) }));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.target.tagName === "SELECT") return;
  if (/^[1-7]$/.test(event.key)) rate(4 - Number(event.key));
});
$("language").append(...Object.entries(LANGUAGES).map(([value, textContent]) => Object.assign(document.createElement("option"), { value, textContent })));
$("language").value = language;
$("language").onchange = (event) => {
  language = event.target.value;
  show();
};
take(fetch(`/api/item?rater=${encodeURIComponent(rater)}`));
