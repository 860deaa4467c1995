"use strict";

const KEYS = {1: "first", 2: "second", t: "tie", 0: "tie", s: "skip", " ": "skip"};
const SCROLLS = {ArrowUp: -1, ArrowDown: 1, PageUp: -8, PageDown: 8};
const LINE = 40;                // pixels that an arrow key scrolls
const at = id => document.getElementById(id);
const view = name();            // tells this window from others, which show other pairs
let asked = null;               // the question on the screen
let busy = true;

// a window keeps its name, and so its question, when it is loaded again
function name() {
  const kept = sessionStorage.getItem("window") || crypto.randomUUID();
  sessionStorage.setItem("window", kept);
  return kept;
}

async function send(path, body) {
  busy = true;
  try {
    const response = await fetch(path, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({window: view, ...body})});
    if (response.status === 404) {
      tell("This page belongs to an earlier start of the server. Open the address that its terminal shows now.");
    } else {
      const found = await response.json();
      if (found.error) {
        tell(`This was not kept. ${found.error}`);
      } else {
        show(found);
      }
    }
  } catch (error) {
    tell("The server does not answer. What was counted is kept: start it again by the same command, and open the address "
         + "that it shows.");
  }
  busy = false;
}

function choose(choice) {
  if (!busy && asked) {
    send("vote", {question: asked.id, choice});
  }
}

function tell(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

function show(found) {
  const done = found.voted + found.skipped;
  tell(found.counted === false ? "The last pair was voted on in another window; that vote stands." : "");
  at("count").textContent = `${done} of ${found.total}`;
  at("progress").max = found.total || 1;
  at("progress").value = done;
  asked = found.question;
  document.title = asked ? `${done} of ${found.total}: which answer is better?` : "All done";
  at("question").hidden = !asked;
  at("done").hidden = Boolean(asked);
  if (asked) {
    at("prompt").replaceChildren(...asked.prompt.flatMap(turn));
    at("first").replaceChildren(text(asked.answers[0]));
    at("second").replaceChildren(text(asked.answers[1]));
    for (const id of ["first", "second"]) {
      at(id).scrollTop = 0;
    }
    at("prompt").scrollTop = at("prompt").scrollHeight;     // of a conversation, its last turn
    if (at("prompt").children.length === 1) {
      at("prompt").scrollTop = 0;
    }
  } else {
    const votes = found.voted === 1 ? "1 vote" : `${found.voted} votes`;
    at("tally").textContent = found.skipped ? `${votes}, and ${found.skipped} skipped.` : `${votes}.`;
    at("file").textContent = found.file;
    at("after").textContent = found.after.join("\n");
  }
  if (document.activeElement instanceof HTMLElement) {
    document.activeElement.blur();      // or the next space would press the same button
  }
}

function turn({role, text: content}) {
  const part = document.createElement("div");
  part.dir = "auto";
  part.append(text(content));
  if (!role) {
    return [part];
  }
  const label = document.createElement("span");
  label.className = "role";
  label.textContent = role;
  return [label, part];
}

function text(content) {
  if (content.trim()) {
    return document.createTextNode(content);
  }
  const mark = document.createElement("span");
  mark.className = "empty";
  mark.textContent = "(empty)";
  return mark;
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat && !(event.key in SCROLLS)) {
    return;
  }
  const digit = /^(?:Digit|Numpad)([012])$/.exec(event.code);     // on keyboards where digits need Shift
  const choice = KEYS[event.key.toLowerCase()] || digit && KEYS[digit[1]];
  const focused = event.target instanceof HTMLButtonElement;
  if (choice && asked && !(focused && event.key === " ")) {
    event.preventDefault();
    choose(choice);
  } else if (event.key in SCROLLS && asked && !event.target.closest(".text")) {
    event.preventDefault();
    for (const id of ["first", "second"]) {
      at(id).scrollBy(0, SCROLLS[event.key] * LINE);
    }
  }
});

document.querySelectorAll("button[data-choice]").forEach(button => {
  button.addEventListener("click", () => choose(button.dataset.choice));
});

send("next", {});
