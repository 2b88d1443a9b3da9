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

function tick() {
  for (const time of document.querySelectorAll("time")) {
    const ahead = Math.round((Date.parse(time.dateTime) - Date.now() - skew) / 1000);
    const text = ahead > 0 ? `in ${distance(ahead)}` : ahead < 0 ? `${distance(-ahead)} ago` : "now";
    if (time.textContent !== text) time.textContent = text;
  }
}

function setClock(response) {
  const date = Date.parse(response.headers.get("date"));
  if (!Number.isNaN(date)) skew = date - Date.now();
}

// ── all services ───────────────────────────────────────────────────────────────────────────────────────────────────────

function filter() {
  const wanted = search.value.trim().toLowerCase();
  for (const row of rows.children) row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
}

function count() {
  const ranks = [0, 0, 0];
  for (const row of rows.children) ranks[row.dataset.rank] += 1;
  document.querySelectorAll("#summary b").forEach((element, rank) => { element.textContent = ranks[rank]; });
}

// A service that became better or worse takes its place in the order. Nothing moves while the keyboard is in the list.
function place(row) {
  if (rows.contains(document.activeElement)) return;
  const key = (element) => `${element.dataset.rank} ${element.dataset.id}`;
  const next = Array.from(rows.children).find((other) => other !== row && key(other) > key(row));
  rows.insertBefore(row, next ?? null);
}

async function refreshRows(ids) {
  const known = ids.filter((id) => document.getElementById(`service-${id}`));
  for (let at = 0; at < known.length; at += 100) {
    const response = await fetch(`${root}ui/services?rows=${known.slice(at, at + 100).join(",")}`);
    if (!response.ok) throw new Error(`status ${response.status}`);
    setClock(response);
    const part = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const fresh of Array.from(part.querySelectorAll("li.row"))) {
      const old = document.getElementById(fresh.id);
      const moved = old.dataset.rank !== fresh.dataset.rank;
      if (old.contains(document.activeElement)) {
        const focused = fresh.querySelector("a.id");
        old.replaceWith(fresh);
        focused.focus();
      } else {
        old.replaceWith(fresh);
      }
      if (moved) place(fresh);
    }
  }
  count();
  filter();
}

// ── the parts of a page ────────────────────────────────────────────────────────────────────────────────────────────────

// A command that was refused answers with the page of the service, at an address that cannot be read.
const path = location.pathname.replace(/(\/ui\/services\/[^/]+)\/[^/]+$/, "$1");

async function refreshParts() {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`status ${response.status}`);
  setClock(response);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const fresh of page.querySelectorAll("[data-part]")) {
    const old = document.getElementById(fresh.id);
    if (!old || old.contains(document.activeElement)) continue;
    const open = Array.from(old.querySelectorAll("details"), (details) => details.open);
    fresh.querySelectorAll("details").forEach((details, n) => { if (fresh.id === "now") details.open = open[n] ?? details.open; });
    // A person reads an error that is open.
    if (fresh.id !== "now" && open.includes(true)) continue;
    old.replaceWith(fresh);
  }
}

// What other replicas do is no event of this one.
if (document.body.dataset.period) {
  const connection = document.getElementById("connection");
  connection.textContent = "● live";
  setInterval(async () => {
    if (document.hidden) return;
    try {
      await refreshParts();
// A page that is loaded again does not say again what was done before.
if (location.search.startsWith("?done=")) history.replaceState(null, "", path);
      connection.textContent = "● live";
    } catch {
      connection.textContent = "○ connection lost, trying again";
    }
  }, document.body.dataset.period * 1000);
}

// ── live ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

if (live !== undefined && window.EventSource) {
  const connection = document.getElementById("connection");
  const changed = new Set();
  let timer = null;
  const visible = (id) => {
    const row = document.getElementById(`service-${id}`);
    if (!row || row.hidden) return false;
    const box = row.getBoundingClientRect();
    return box.bottom > -400 && box.top < innerHeight + 400;
  };
  const flush = async () => {
    timer = null;
    if (document.hidden) return;
    try {
      if (!rows) {
        changed.clear();
        await refreshParts();
      } else {
        // Rows that are not on the screen follow when they are scrolled to, or when their status changes.
        const ids = Array.from(changed).filter((id) => visible(id) || urgent.has(id));
        ids.forEach((id) => { changed.delete(id); urgent.delete(id); });
        if (ids.length) await refreshRows(ids);
      }
    } catch {
      // The connection shows it.
    }
  };
  const urgent = new Set();
  const schedule = () => { timer ??= setTimeout(flush, 700); };
  const receive = (message) => {
    const event = JSON.parse(message.data);
    const all = [event, ...(event.earlier ?? [])];
    changed.add(event.service_id);
    if (all.some((one) => ["run_failed", "run_given_up", "state_changed"].includes(one.event))) urgent.add(event.service_id);
    schedule();
  };
  let events = null;
  let lost = null;
  let missed = false;
  const opened = () => {
    clearTimeout(lost);
    lost = null;
    connection.textContent = "● live";
    if (!missed) return;
    missed = false;
    // What has happened meanwhile.
    for (const row of rows?.children ?? []) { changed.add(row.dataset.id); urgent.add(row.dataset.id); }
    schedule();
  };
  // An interface that is mounted in another server ends each stream after a while; then the browser connects again at once.
  const failed = () => {
    missed = true;
    lost ??= setTimeout(() => { connection.textContent = "○ connection lost, trying again"; }, 2000);
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
    events.addEventListener("dropped", () => { connection.textContent = "○ too slow, connecting again"; });
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
  // A reason may have a time in it ("retrying in 40 s"), which changes without an event.
  setInterval(() => {
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

if (search && rows) {
  search.addEventListener("input", filter);
  search.form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    }
  });
}

for (const input of document.querySelectorAll("[data-remember]")) {
  const key = `service-admin-${input.dataset.remember}`;
  try {
    input.value ||= localStorage.getItem(key) ?? "";
    input.addEventListener("change", () => localStorage.setItem(key, input.value));
  } catch {
    // The browser keeps nothing.
  }
}

setInterval(tick, 1000);
