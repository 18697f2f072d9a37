/**
 * Draws the ramp panel. One trait, `state` (see View in ramp_view.py); a press goes back as a message
 * {kind: "apply", plan} or {kind: "refresh"}. No guard lives here: the kernel refuses what must not happen.
 * All text is set as text, never as HTML: names come from files.
 */

const SILENCE_MS = 15000;
let panels = 0;

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A sentence in which no number stands on another line than its sign of percent. */
function sentence(text) {
  return text.replaceAll(" %", "\u00a0%");
}

function list(className, heading, items) {
  const lines = items.map((text) => make("li", {}, sentence(text)));
  return [make("p", { class: "expnb-ramp-heading" }, heading), make("ul", { class: className }, ...lines)];
}

/** One rung: a track of all eligible units, the enrolled part of it, and over that the treated part. */
function rung({ label, enrolled, treated, words }) {
  const gate = make("span", { class: "expnb-ramp-enrolled" });
  gate.style.width = `${enrolled}%`;
  const fill = make("span", { class: "expnb-ramp-treated" });
  fill.style.width = `${treated}%`;
  const track = make("span", { class: "expnb-ramp-track", "aria-hidden": "true" }, gate, fill);
  return make("div", { class: "expnb-ramp-rung" }, make("span", {}, label), track, make("span", {}, sentence(words)));
}

function ladder(bars) {
  const key = make("p", { class: "expnb-ramp-key", "aria-hidden": "true" });
  key.append(make("i", { class: "expnb-ramp-treated" }), "treated", make("i", { class: "expnb-ramp-enrolled" }), "enrolled, in percent of eligible units (marks at 25, 50, 75)");
  return [...bars.map(rung), key];
}

function rules(state) {
  const head = make("tr", {}, ...["outcome", "rule", "in words"].map((text) => make("th", { scope: "col" }, text)));
  const rows = state.rules.map(([mark, outcome, asked, words]) => make("tr", { "data-outcome": outcome }, make("td", {}, `${mark} ${outcome}`), make("td", {}, asked), make("td", {}, sentence(words))));
  const more = state.more_rules ? [make("p", {}, `${state.more_rules} more rules stand in the decision.`)] : [];
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("details", { class: "expnb-ramp-rules" }, make("summary", {}, `All ${state.rules.length + state.more_rules} rules`), table, ...more);
}

/** The part that does not change after the first drawing. */
function story(state, id) {
  const parts = [
    make("p", { class: "expnb-ramp-where" }, make("span", {}, state.experiment), make("span", {}, `flag ${state.flag}`), make("span", {}, state.environment)),
    make("p", { class: "expnb-ramp-title", id, role: "heading", "aria-level": "3" }, state.action),
    make("div", { class: "expnb-ramp-ladder" }),
    ...list("expnb-ramp-reasons", "Why", state.reasons),
  ];
  if (state.notes.length) parts.push(...list("expnb-ramp-notes", "Know besides", state.notes));
  if (state.rules.length) parts.push(rules(state));
  return parts;
}

function receipt(rows) {
  const lines = rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  const table = make("table", {}, make("tbody", {}, ...lines));
  return make("div", { class: "expnb-ramp-receipt", role: "group", tabindex: "-1", "aria-label": "receipt" }, table);
}

function button(text, className, onClick) {
  const node = make("button", { type: "button", class: className }, sentence(text));
  node.addEventListener("click", onClick);
  return node;
}

function render({ model, el }) {
  const id = `expnb-ramp-${++panels}`;
  const first = model.get("state");
  // Without the attribute JupyterLab takes Enter and Escape for the notebook.
  const root = make("section", { class: "expnb-ramp", "aria-labelledby": id, "data-lm-suppress-shortcuts": "true" });
  const consent = make("p", { class: "expnb-ramp-approvals", id: `${id}-consent` });
  const actions = make("div", { class: "expnb-ramp-actions" });
  const status = make("p", { class: "expnb-ramp-status", role: "status" });
  const problem = make("p", { class: "expnb-ramp-error", role: "alert" });
  const outcome = make("div");
  let asking = false;
  let silence = 0;

  const main = () => actions.querySelector(".expnb-ramp-main");

  const cancel = () => {
    asking = false;
    update();
    main()?.focus();
  };

  const confirm = (state) => {
    asking = false;
    actions.replaceChildren();
    status.textContent = "Sent to the kernel.";
    status.tabIndex = -1;
    status.focus();
    model.send({ kind: "apply", plan: state.plan });
    silence = setTimeout(() => {
      status.textContent = "No answer from the kernel so far; it may be busy with another cell. Nothing is sent twice.";
    }, SILENCE_MS);
  };

  const ask = (state) => {
    const question = make("p", { id: `${id}-question` }, sentence(state.question));
    const yes = button(state.confirm, `expnb-ramp-main${state.danger ? " expnb-ramp-danger" : ""}`, () => confirm(state));
    const group = make("div", { class: "expnb-ramp-ask", role: "group", tabindex: "-1", "aria-labelledby": question.id }, question, yes, button("Cancel", "expnb-ramp-plain", cancel));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      cancel();
    });
    actions.replaceChildren(group);
    // On the question, not on an answer: a key that is held down must not confirm by itself.
    group.focus();
  };

  const offer = (state) => {
    const press = button(state.button, `expnb-ramp-main${state.danger ? " expnb-ramp-danger" : ""}`, () => {
      asking = true;
      ask(state);
    });
    press.disabled = state.phase === "waiting";
    press.setAttribute("aria-describedby", consent.id);
    const again = button("Check again", "expnb-ramp-plain", () => model.send({ kind: "refresh" }));
    actions.replaceChildren(press, ...(press.disabled ? [again] : []));
  };

  function update() {
    const state = model.get("state");
    const offered = state.phase === "ready" || state.phase === "waiting";
    const held = root.contains(document.activeElement) && actions.contains(document.activeElement);
    clearTimeout(silence);
    root.dataset.phase = state.phase;
    root.querySelector(".expnb-ramp-ladder").replaceChildren(...ladder(state.bars));
    consent.textContent = state.approvals;
    status.textContent = state.message;
    problem.textContent = sentence(state.error);
    if (asking && offered) return; // a question that stands is not taken away by a refresh
    asking = false;
    if (offered) offer(state);
    else actions.replaceChildren();
    if (held && offered) (main().disabled ? actions.lastElementChild : main()).focus();
    if (state.receipt.length && !outcome.hasChildNodes()) {
      outcome.append(receipt(state.receipt));
      if (root.contains(document.activeElement)) outcome.firstElementChild.focus();
    }
  }

  root.append(...story(first, id), consent, actions, status, problem, outcome, make("p", { class: "expnb-ramp-small" }, sentence(first.small.join(" "))));
  el.append(root);
  update();
  model.on("change:state", update);
  return () => {
    clearTimeout(silence);
    model.off("change:state", update);
  };
}

export default { render };
