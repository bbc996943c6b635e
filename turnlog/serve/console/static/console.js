// The console's behaviour: keys, copying, and pages that follow what happens. Texts of models and users only ever get
// into the page as text, or as HTML that the server has cleaned.
"use strict";

// ---- keys

const rows = () => [...document.querySelectorAll("[data-row]")];
let current = -1;
let afterG = false;

function select(index) {
  const all = rows();
  if (!all.length) return;
  all.forEach((row) => row.classList.remove("current"));
  current = Math.max(0, Math.min(index, all.length - 1));
  all[current].classList.add("current");
  all[current].scrollIntoView({ block: "nearest" });
}

function openCurrent() {
  const row = rows()[current];
  if (!row) return;
  const link = row.querySelector("[data-open-row]");
  const folded = row.querySelector("details");
  if (link) link.click();
  else if (folded) folded.open = !folded.open;
}

const PLACES = { s: "/", t: "/console/topology", d: "/console/dead-letters", q: "/console/sql" };

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, textarea, select");
  if (field) {
    if (event.key === "Escape") field.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && field.form) field.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = document.querySelector("[data-keys]");
  if (afterG) {
    afterG = false;
    if (PLACES[event.key]) location.assign(PLACES[event.key]);
    return;
  }
  switch (event.key) {
    case "j": select(current + 1); break;
    case "k": select(current - 1); break;
    case "Enter": {
      const own = event.target.closest("a, button, summary");
      // The button of a dialog that was just closed keeps the focus until the page is drawn again.
      if (own && own.checkVisibility()) return;
      openCurrent();
      break;
    }
    case "/": {
      const search = document.querySelector("[data-search]");
      if (!search) return;
      search.focus();
      break;
    }
    case "u": {
      if (location.pathname === "/") return;
      location.assign("/");
      break;
    }
    case "g": afterG = true; break;
    case "?": if (keys.open) keys.close(); else keys.showModal(); break;
    default: return;
  }
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    event.preventDefault();
    navigator.clipboard.writeText(copy.dataset.copy).then(() => {
      copy.classList.add("done");
      setTimeout(() => copy.classList.remove("done"), 1200);
    });
  }
  if (event.target.closest("[data-help]")) document.querySelector("[data-keys]").showModal();
});

// ---- following

function say(state) {
  const label = document.querySelector("[data-live-state]");
  label.hidden = false;
  for (const age of document.querySelectorAll("[data-age]")) age.hidden = state === "live";
  label.textContent = state;
  label.classList.toggle("away", state !== "live");
}

// A browser opens few connections to one host, over all its tabs: a hidden one gives its own back.
function follow(address, handlers) {
  let source = null;
  let last = "";
  const open = () => {
    if (source) return;
    const from = last ? address + (address.includes("?") ? "&" : "?") + "last=" + encodeURIComponent(last) : address;
    source = new EventSource(from);
    source.onopen = () => say("live");
    source.onerror = () => {
      say("reconnecting");
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(() => { if (!document.hidden) open(); }, 3000);
      }
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
  };
  const close = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  if (!document.hidden) open();
}

async function fragment() {
  const address = new URL(location.href);
  address.searchParams.set("fragment", "1");
  const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
  if (!answer.ok) return null;
  return new DOMParser().parseFromString(await answer.text(), "text/html").body;
}

let refreshing = false;
let again = false;
async function refresh(put) {
  if (refreshing) { again = true; return; }
  refreshing = true;
  try {
    do {
      again = false;
      const fresh = await fragment();
      if (fresh) put(fresh);
    } while (again);
  } catch (error) {
    say("reconnecting");
  } finally {
    refreshing = false;
  }
}

function liveSessions(box) {
  follow(box.dataset.live, {
    snapshot: () => refresh((fresh) => {
      const at = rows()[current];
      const name = at && at.querySelector("[data-open-row]").textContent;
      box.replaceChildren(...fresh.childNodes);
      const index = rows().findIndex((row) => row.querySelector("[data-open-row]").textContent === name);
      if (name && index >= 0) select(index);
    }),
  });
}

// ---- a transcript

const element = (name, kind, text) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
};

function parsed(html) {
  return [...new DOMParser().parseFromString(html, "text/html").body.childNodes];
}

function turnOf(box, id) {
  const known = [...box.querySelectorAll("[data-turn]")].find((each) => each.dataset.turn === id);
  if (known) return known;
  const made = element("article", "turn");
  made.dataset.row = "";
  made.dataset.turn = id;
  made.dataset.open = "yes";
  const head = element("div", "head");
  head.append(element("code", "", id));
  const stream = element("div", "streaming");
  stream.dataset.stream = "";
  made.append(head, element("div", "settled"), stream);
  box.querySelector("[data-turns]").append(made);
  const empty = box.querySelector("[data-empty]");
  if (empty) empty.remove();
  return made;
}

const seqs = (root) => new Set([...root.querySelectorAll("[data-seq]")].map((each) => each.dataset.seq));

function atEnd() {
  return window.innerHeight + window.scrollY > document.body.scrollHeight - 160;
}

function changing(change) {
  const stay = atEnd();
  const height = document.body.scrollHeight;
  change();
  if (stay && document.body.scrollHeight > height) window.scrollTo(0, document.body.scrollHeight);
}

function part(stream, kind) {
  let found = stream.querySelector(":scope > [data-part='" + kind + "']");
  if (!found) {
    found = element("div", kind === "text" ? "text plain" : "reasoning");
    found.dataset.part = kind;
    stream.append(found);
  }
  return found;
}

function clearParts(stream) {
  stream.querySelectorAll("[data-part]").forEach((each) => each.remove());
}

function putTurns(box, fresh) {
  const head = fresh.querySelector("[data-head]");
  if (head) document.querySelector("[data-head]").replaceWith(head);
  const turns = box.querySelector("[data-turns]");
  const known = new Map([...turns.children].map((each) => [each.dataset.turn, each]));
  for (const turn of fresh.querySelectorAll("[data-turn]")) {
    const old = known.get(turn.dataset.turn);
    if (!old) { turns.append(turn); continue; }
    if (old.dataset.settled === turn.outerHTML) continue;
    // Told to have ended already: this snapshot is of before.
    if (old.dataset.open === "no" && turn.dataset.open === "yes") continue;
    const open = [...old.querySelectorAll(".settled details")].map((each) => each.open);
    const stream = old.querySelector("[data-stream]");
    const ended = turn.dataset.open === "no";
    const text = turn.outerHTML;
    old.replaceChildren(...turn.childNodes);
    old.dataset.open = turn.dataset.open;
    old.dataset.settled = text;
    old.querySelectorAll(".settled details").forEach((each, index) => { if (open[index]) each.open = true; });
    if (ended) continue;
    const have = seqs(old.querySelector(".settled"));
    stream.querySelectorAll("[data-seq]").forEach((each) => { if (have.has(each.dataset.seq)) each.remove(); });
    old.querySelector("[data-stream]").replaceWith(stream);
  }
  const empty = box.querySelector("[data-empty]");
  if (empty && turns.children.length) empty.remove();
}

function liveTurns(box) {
  const streaming = (id) => turnOf(box, id).querySelector("[data-stream]");
  const openTurn = (id) => turnOf(box, id).dataset.open !== "no";
  follow(box.dataset.live, {
    snapshot: () => refresh((fresh) => changing(() => putTurns(box, fresh))),
    accepted: (data) => changing(() => turnOf(box, data.turn)),
    refused: (data) => {
      const note = element("p", "note bad", `Refused (${data.code}): ${data.reason}`);
      note.setAttribute("role", "alert");
      box.append(note);
    },
    started: (data) => changing(() => { if (openTurn(data.turn)) clearParts(streaming(data.turn)); }),
    delta: (data) => changing(() => {
      if (openTurn(data.turn)) part(streaming(data.turn), data.kind).append(data.text);
    }),
    message: (data) => changing(() => {
      if (!openTurn(data.turn)) return;
      const turn = turnOf(box, data.turn);
      if (data.role === "assistant") clearParts(streaming(data.turn));
      if (seqs(turn).has(String(data.seq))) return;
      streaming(data.turn).append(...parsed(data.html));
    }),
    ended: (data) => changing(() => {
      if (!openTurn(data.turn)) return;
      const turn = turnOf(box, data.turn);
      clearParts(streaming(data.turn));
      turn.dataset.open = "no";
      turn.querySelectorAll(".settled .cost, .head form").forEach((each) => each.remove());
      streaming(data.turn).append(...parsed(data.html));
    }),
  });
}

for (const box of document.querySelectorAll("[data-live]")) {
  if (box.dataset.fragment === "sessions") liveSessions(box);
  else liveTurns(box);
}
