// Keeps a page current. Without this file, every page and form works, but does not change by itself.
"use strict";

const root = document.body.dataset.root;
const live = document.body.dataset.live;
const rows = document.getElementById("rows");
const search = document.getElementById("search");

// ── times ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function distance(seconds) {
  const two = (large, unit, small, smallUnit) => (small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 3600) return two(Math.floor(seconds / 60), "min", seconds % 60, "s");
  if (seconds < 86400) return two(Math.floor(seconds / 3600), "h", Math.floor((seconds % 3600) / 60), "min");
  return two(Math.floor(seconds / 86400), "d", Math.floor((seconds % 86400) / 3600), "h");
}

// The clock of this computer may differ from the server's, which has written its time into the page.
let skew = document.body.dataset.now - Date.now();

function tick(part) {
  for (const time of part.querySelectorAll("time")) {
    const ahead = Math.round((Date.parse(time.dateTime) - Date.now() - skew) / 1000);
    const text = ahead > 0 ? `in ${distance(ahead)}` : ahead < 0 ? `${distance(-ahead)} ago` : "now";
    if (time.textContent !== text) time.textContent = text;
  }
}

// A server that does not answer within 5 s is not waited for.
async function fetchPage(address) {
  const response = await fetch(address, { signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw Object.assign(new Error(`status ${response.status}`), { status: response.status });
  const date = Date.parse(response.headers.get("date"));
  if (!Number.isNaN(date)) skew = date - Date.now();
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// ── the connection ─────────────────────────────────────────────────────────────────────────────────────────────────────

const connection = document.getElementById("connection");

// A screen reader announces each time that the text is set, also if it is the same.
function showConnection(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

// Without a valid token, the page itself is the login, which leads back to it.
function showLost(error) {
  if (error?.status !== 401) return showConnection("○ connection lost, trying again");
  if (connection.querySelector("a")) return;
  const link = document.createElement("a");
  link.href = path;
  link.textContent = "log in again";
  connection.replaceChildren("○ ", link);
}

// ── all services ───────────────────────────────────────────────────────────────────────────────────────────────────────

function filter() {
  const wanted = search.value.trim().toLowerCase();
  for (const row of rows.children) row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
  document.getElementById("none").hidden = Array.from(rows.children).some((row) => !row.hidden);
}

function count() {
  const ranks = [0, 0, 0];
  for (const row of rows.children) ranks[row.dataset.rank] += 1;
  document.querySelectorAll("#summary b").forEach((element, rank) => { element.textContent = ranks[rank]; });
}

const key = (row) => `${row.dataset.rank} ${row.dataset.id}`;

// A service that became better or worse takes its place in the order. Nothing moves while the keyboard is in the list.
function place(row) {
  if (rows.contains(document.activeElement)) return;
  const next = Array.from(rows.children).find((other) => other !== row && key(other) > key(row));
  rows.insertBefore(row, next ?? null);
}

function sort() {
  let next = null;
  for (const row of Array.from(rows.children).sort((a, b) => (key(a) < key(b) ? 1 : -1))) {
    if (row.nextElementSibling !== next) rows.insertBefore(row, next);
    next = row;
  }
}

// Shows the rows of a page. A row that was requested and is missing belongs to a service that was unregistered.
function showRows(page, requested) {
  const missing = new Set(requested);
  for (const fresh of Array.from(page.querySelectorAll("li.row"))) {
    missing.delete(fresh.dataset.id);
    const old = document.getElementById(fresh.id);
    const moved = old?.dataset.rank !== fresh.dataset.rank;
    if (!old) {
      rows.append(fresh);
    } else if (old.contains(document.activeElement)) {
      const focused = fresh.querySelector("a.id");
      old.replaceWith(fresh);
      focused.focus();
    } else {
      old.replaceWith(fresh);
    }
    if (moved) place(fresh);
  }
  for (const id of missing) document.getElementById(`service-${id}`)?.remove();
  count();
  filter();
}

async function refreshRows(ids) {
  for (let at = 0; at < ids.length; at += 100) {
    const part = ids.slice(at, at + 100);
    const page = await fetchPage(`${root}ui/services?rows=${part.join(",")}`);
    // A proxy may answer with a page of its own, which has a title.
    if (page.title) throw new Error("another page");
    showRows(page, part);
  }
}

async function refreshList() {
  const shown = Array.from(rows.children, (row) => row.dataset.id);
  const page = await fetchPage(`${root}ui/services`);
  if (!page.getElementById("rows")) throw new Error("another page");
  showRows(page, shown);
}

// ── who changes something ──────────────────────────────────────────────────────────────────────────────────────────────

// As the default: a field with another value is one that a person has filled in.
function remember(part) {
  for (const input of part.querySelectorAll("[data-remember]")) {
    const key = `service-admin-${input.dataset.remember}`;
    try {
      input.defaultValue ||= localStorage.getItem(key) ?? "";
      input.addEventListener("change", () => localStorage.setItem(key, input.value));
    } catch {
      // The browser keeps nothing.
    }
  }
}

// ── the parts of a page ────────────────────────────────────────────────────────────────────────────────────────────────

// A command that was refused answers with the page of the service, at an address that cannot be read.
const path = location.pathname.replace(/(\/ui\/services\/[^/]+)\/[^/]+$/, "$1");
// A page that is loaded again does not say again what was done before.
if (location.search.startsWith("?done=")) history.replaceState(null, "", path);

// Whether a part was not replaced, because a person uses it.
let isHeld = false;

function showLive() {
  showConnection(isHeld ? "◐ live, except for the part in use" : "● live");
}

function isInUse(part) {
  const selection = getSelection();
  if (!selection.isCollapsed && selection.containsNode(part, true)) return true;
  // A person reads an error that is open, which new runs would move.
  if (part.id !== "now" && part.querySelector("details[open]")) return true;
  if (!part.querySelector("button")) return false;
  const isFilledIn = (input) => input.value !== input.defaultValue;
  return part.contains(document.activeElement) || Array.from(part.querySelectorAll("input")).some(isFilledIn);
}

// The new part takes over the focus and the scroll positions.
function replacePart(old, fresh) {
  const elements = (part) => Array.from(part.querySelectorAll("summary, pre, .scroll, a"));
  const name = (element) => [element.tagName, element.getAttribute("href"), element.closest("tr")?.cells[0].textContent].join(" ");
  const before = elements(old);
  const positions = before.map((element) => [element.scrollLeft, element.scrollTop]);
  const focused = before.indexOf(document.activeElement);
  const focusVisible = document.activeElement.matches(":focus-visible");
  old.replaceWith(fresh);
  const after = elements(fresh);
  positions.forEach(([left, top], n) => after[n]?.scrollTo(left, top));
  if (focused < 0) return;
  const wanted = name(before[focused]);
  const counterpart = after.find((element) => name(element) === wanted) ?? after[focused];
  counterpart?.focus({ preventScroll: true, focusVisible });
}

async function refreshParts() {
  const page = await fetchPage(path);
  isHeld = false;
  for (const fresh of page.querySelectorAll("[data-part]")) {
    const old = document.getElementById(fresh.id);
    if (!old) continue;
    if (fresh.id === "now") {
      const open = Array.from(old.querySelectorAll("details"), (details) => details.open);
      fresh.querySelectorAll("details").forEach((details, n) => { details.open = open[n] ?? details.open; });
    }
    tick(old);
    tick(fresh);
    remember(fresh);
    if (old.isEqualNode(fresh)) continue;
    if (isInUse(old)) isHeld = true;
    else replacePart(old, fresh);
  }
}

// What other replicas do is no event of this one.
if (document.body.dataset.period) {
  showLive();
  let isReading = false;
  setInterval(async () => {
    if (document.hidden || isReading) return;
    isReading = true;
    try {
      await refreshParts();
      showLive();
    } catch (error) {
      showLost(error);
    }
    isReading = false;
  }, document.body.dataset.period * 1000);
}

// ── live ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

if (live !== undefined && window.EventSource) {
  const changed = new Set();
  const urgent = new Set();
  // Whether events may have been missed.
  let all = false;
  let isOpen = false;
  let isLost = false;
  // Why the last reading failed.
  let problem = null;
  const show = () => {
    if (problem?.status === 404) showConnection("○ this service is not registered any more");
    else if (isLost || problem) showLost(problem);
    else if (isOpen) showLive();
  };
  const visible = (id) => {
    const row = document.getElementById(`service-${id}`);
    if (!row || row.hidden) return false;
    const box = row.getBoundingClientRect();
    return box.bottom > -400 && box.top < innerHeight + 400;
  };
  const read = async () => {
    if (!rows) {
      changed.clear();
      return refreshParts();
    }
    const isAll = all;
    // Rows that are not on the screen follow when they are scrolled to, or when their status changes.
    const ids = Array.from(changed).filter((id) => isAll || visible(id) || urgent.has(id));
    all = false;
    ids.forEach((id) => { changed.delete(id); urgent.delete(id); });
    try {
      if (isAll) await refreshList();
      else await refreshRows(ids);
    } catch (error) {
      all ||= isAll;
      ids.forEach((id) => { changed.add(id); urgent.add(id); });
      throw error;
    }
  };
  let timer = null;
  let isReading = false;
  const flush = async () => {
    timer = null;
    // What happens meanwhile follows afterwards.
    if (isReading) return schedule();
    if (document.hidden) return;
    isReading = true;
    try {
      await read();
      problem = null;
    } catch (error) {
      problem = error;
    }
    isReading = false;
    show();
  };
  const schedule = () => { timer ??= setTimeout(flush, 700); };
  const receive = (message) => {
    const event = JSON.parse(message.data);
    const kinds = [event, ...(event.earlier ?? [])].map((one) => one.event);
    const isUrgent = ["registered", "unregistered", "run_failed", "run_given_up", "state_changed"].some((kind) => kinds.includes(kind));
    if (kinds.includes("lagged")) {
      all = true;
    } else {
      changed.add(event.service_id);
      if (isUrgent || !document.getElementById(`service-${event.service_id}`)) urgent.add(event.service_id);
    }
    schedule();
  };
  let events = null;
  let lost = null;
  let missed = false;
  const opened = () => {
    clearTimeout(lost);
    lost = null;
    isOpen = true;
    isLost = false;
    show();
    if (!missed) return;
    missed = false;
    // What has happened meanwhile.
    all = true;
    schedule();
  };
  // An interface that is mounted in another server ends each stream after a while; then the browser connects again at once.
  const failed = () => {
    missed = true;
    lost ??= setTimeout(() => {
      isLost = true;
      show();
    }, 2000);
    if (events.readyState !== EventSource.CLOSED) return;
    // The answer had another status than 200: the browser does not connect again.
    events = null;
    setTimeout(connect, 5000);
  };
  const connect = () => {
    if (events || document.hidden) return;
    events = new EventSource(`${root}events${live ? `?service=${encodeURIComponent(live)}` : ""}`);
    events.onopen = opened;
    events.onerror = failed;
    events.onmessage = receive;
    events.addEventListener("dropped", () => showConnection("○ too slow, connecting again"));
  };
  // A browser opens six connections to a host: a page in the background must not keep one.
  const disconnect = () => {
    events?.close();
    events = null;
    missed = true;
    clearTimeout(lost);
    lost = null;
  };
  connect();
  // The server has left out the other services, and those are counted, too.
  if (rows && search.value) {
    all = true;
    schedule();
  }
  let ticks = 0;
  // A reason may have a time in it ("retrying in 40 s"), which changes without an event. A service that hangs sends no
  // event, either, so all rows are read every 15 s, with one request.
  setInterval(() => {
    ticks += 1;
    if (rows && ticks % 3 === 0) all = true;
    if (rows) document.querySelectorAll("li.row.unhealthy, li.row.degraded, li.row[data-state=standby]").forEach((row) => changed.add(row.dataset.id));
    if (!document.hidden) schedule();
  }, 5000);
  addEventListener("scroll", () => { if (changed.size) schedule(); }, { passive: true });
  addEventListener("visibilitychange", () => {
    if (document.hidden) return disconnect();
    connect();
    schedule();
  });
}

// Afterwards, because a row that has the focus is replaced in between.
rows?.addEventListener("focusout", () => setTimeout(() => { if (!rows.contains(document.activeElement)) sort(); }));

if (search && rows) {
  search.addEventListener("input", filter);
  search.form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  // A browser may restore what was entered.
  filter();
}

// A second click must not send a command twice. A page that the browser keeps may be shown again.
const sent = new Set();
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented) return;
  if (sent.has(event.target)) event.preventDefault();
  sent.add(event.target);
});
addEventListener("pageshow", (event) => { if (event.persisted) sent.clear(); });

remember(document);

setInterval(() => tick(document), 1000);
