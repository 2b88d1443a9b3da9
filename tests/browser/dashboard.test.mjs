// Tests of the dashboard in a browser: node --test, with the path of `admin-site` in ADMIN_SITE.
// SCREENSHOTS=directory writes a picture of each page.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { eventually, startBrowser, startSite } from "./site.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PAGES = [
  "/", "/ui/services/price_sync", "/ui/services/mail_sender", "/ui/services/daily_invoices", "/ui/replicas", "/ui/work",
  "/ui/work/outgoing_message", "/ui/audit", "/login",
];

let site;
let browser;

before(async () => {
  site = await startSite(process.env.ADMIN_SITE, 40);
  browser = await startBrowser();
});

afterEach(async () => {
  const pages = await browser.pages();
  await Promise.all(pages.map((page) => page.close()));
});

after(async () => {
  await browser?.close();
  site?.stop();
});

/** Opens a page. `problems` are errors on its console, and requests to other hosts. `before` runs before its script. */
async function open(path, { width = 1280, scheme = "light", script = true, before = null } = {}) {
  const page = await browser.newPage();
  const problems = [];
  page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => { if (!request.url().startsWith(site.base)) problems.push(request.url()); });
  await page.setJavaScriptEnabled(script);
  if (before) await page.evaluateOnNewDocument(before);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.setViewport({ width, height: 844 });
  await page.goto(site.base + path, { waitUntil: "domcontentloaded" });
  return { page, problems };
}

const health = async (id) => (await fetch(`${site.base}/services/${id}`)).json();
const textOf = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
const press = (page, selector) =>
  Promise.all([page.waitForNavigation({ waitUntil: "domcontentloaded" }), page.click(selector)]);

/** Fills in who and why. */
async function sign(page, prefix, why) {
  await page.$eval(`#${prefix}-by`, (input) => { input.value = ""; });
  await page.type(`#${prefix}-by`, "ann");
  await page.type(`#${prefix}-why`, why);
}

test("no page has a violation of axe, an error, an outside request or a sideways scroll", async () => {
  const pictures = process.env.SCREENSHOTS;
  if (pictures) mkdirSync(pictures, { recursive: true });
  for (const path of PAGES) {
    for (const scheme of ["light", "dark"]) {
      for (const width of [1280, 390]) {
        const { page, problems } = await open(path, { width, scheme });
        const where = `${path} ${scheme} ${width}`;
        if (path.startsWith("/ui/services/") || path === "/" || path === "/ui/replicas") {
          await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
        }
        const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
        if (pictures) await page.screenshot({ path: join(pictures, `${scheme}-${width}${path.replaceAll("/", "-")}.png`) });
        // Through the protocol, which the policy of the page does not concern.
        await page.evaluate(axe);
        const found = await page.evaluate(() => window.axe.run());
        const violations = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
        assert.deepEqual(violations, [], where);
        assert.deepEqual(problems, [], where);
        assert.equal(isWide, false, where);
        await page.close();
      }
    }
  }
});

test("what is worst comes first, and is on the screen of a phone", async () => {
  const { page } = await open("/", { width: 390 });
  const first = await page.$eval("li.row", (row) => {
    return { id: row.dataset.id, text: row.innerText, end: row.getBoundingClientRect().bottom };
  });
  assert.equal((await health(first.id)).status, "unhealthy");
  assert.match(first.text, /unhealthy/i);
  assert.match(first.text, /failed/);
  assert.ok(first.end <= 844, `it ends at ${first.end}`);
});

test("a service is paused and resumed with a button, and the audit says by whom and why", async () => {
  const { page } = await open("/ui/services/worker_5");
  await sign(page, "command", "the provider is <b>down</b>");
  await press(page, "button[value=pause]");
  assert.equal(await textOf(page, ".message.done"), "Done: pause.");
  assert.equal((await health("worker_5")).paused, true);
  assert.match(await page.$eval("#now", (part) => part.innerText), /paused by .*ann.*the provider is <b>down<\/b>/s);
  assert.match(await page.$eval("#audit", (part) => part.innerText), /ann\s+pause worker_5\s+the provider is <b>down<\/b>/);
  await sign(page, "command", "it answers again");
  await press(page, "button[value=resume]");
  await eventually("it is resumed", async () => (await health("worker_5")).paused === false);
});

test("each of the other commands has its effect", async () => {
  const { page } = await open("/ui/services/nightly_report");
  const runs = (await health("nightly_report")).runs;
  await sign(page, "command", "the report is needed now");
  await press(page, "button[value=run]");
  assert.equal((await health("nightly_report")).runs, runs + 1);
  await sign(page, "command", "maintenance");
  await press(page, "button[value=stop]");
  assert.equal((await health("nightly_report")).state, "stopped");
  await sign(page, "command", "maintenance is over");
  await press(page, "button[value=start]");
  assert.equal((await health("nightly_report")).running, true);
  await page.goto(`${site.base}/ui/services/mail_sender`, { waitUntil: "domcontentloaded" });
  const errors = (await health("mail_sender")).error_count;
  await sign(page, "command", "the server was restarted");
  await press(page, "button[value=reset]");
  await eventually("it failed again", async () => (await health("mail_sender")).error_count > errors);
});

test("after a command that was refused, the page stays current", async () => {
  const { page } = await open("/ui/services/worker_8");
  const post = (command) => fetch(`${site.base}/services/worker_8/${command}`, { method: "POST" });
  // A form that is filled in stays as it is, so its button is from before.
  await sign(page, "command", "maintenance");
  assert.equal((await post("pause")).status, 200);
  await press(page, "button[value=pause]");
  assert.match(await textOf(page, ".message.refused"), /paused already/);
  assert.equal((await post("resume")).status, 200);
  await eventually("the page shows that it runs", async () => !(await textOf(page, "#now")).includes("paused by"));
});

test("a command without a reason is not sent", async () => {
  const { page } = await open("/ui/services/worker_7");
  await page.click("button[value=pause]");
  assert.ok(await page.$eval("#command-by", (input) => input.matches(":invalid") || input.value !== ""));
  assert.equal((await health("worker_7")).paused, false);
});

test("the Enter key in the fields of the commands sends no command", async () => {
  for (const script of [true, false]) {
    const { page } = await open("/ui/services/worker_7", { script });
    await page.type("#command-by", "ann");
    await page.type("#command-why", "a half of a reason");
    let isSent = false;
    page.on("request", (request) => { if (request.method() === "POST") isSent = true; });
    await page.keyboard.press("Enter");
    // A form that is sent follows the key at once.
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(isSent, false);
    assert.equal((await health("worker_7")).paused, false);
  }
});

test("an interval is overridden until a time, and the override is removed", async () => {
  const { page } = await open("/ui/services/worker_6");
  await page.type("#override-value", "5m");
  await page.select("#override-until", "1h");
  await sign(page, "override", "a rate limit");
  await press(page, "form:has(#override-value) button");
  const explained = await (await fetch(`${site.base}/services/worker_6/explain`)).json();
  assert.equal(explained.schedule, "every 5m");
  assert.match(await page.$eval("[aria-labelledby=overrides]", (part) => part.innerText), /interval = .*ann[\s\S]*ends in/);
  await sign(page, "remove-0", "the limit is lifted");
  await press(page, "button[name=remove]");
  const after = await (await fetch(`${site.base}/services/worker_6/explain`)).json();
  assert.equal(after.schedule, "every 2s");
});

test("failed rows are shown with their errors, and the chosen ones or all are retried", async () => {
  const failed = async () => (await fetch(`${site.base}/work/outgoing_message/failed`)).json();
  const { page } = await open("/ui/work");
  await eventually("the rows are counted", async () => {
    await page.reload({ waitUntil: "domcontentloaded" });
    return page.$("a[href*=outgoing]");
  });
  await press(page, "a[href*=outgoing]");
  assert.match(await page.$eval("main", (main) => main.innerText), /no route to <host>/);
  assert.equal((await page.$$("tbody tr")).length, 3);
  await page.click("input[name=key]");
  await sign(page, "retry", "the route is back");
  await press(page, "button[value=chosen]");
  assert.equal(await textOf(page, ".message.done"), "Done: rows set back to pending: 1.");
  assert.equal((await failed()).length, 2);
  await page.goto(`${site.base}/ui/work/outgoing_message`, { waitUntil: "domcontentloaded" });
  await sign(page, "retry", "it works");
  await press(page, "button[value=all]");
  assert.equal(await textOf(page, ".message.done"), "Done: rows set back to pending: 2.");
  assert.equal(new URL(page.url()).search, "", "a page that is loaded again does not say it again");
  assert.deepEqual(await failed(), []);
});

test("rows change by themselves, a service that became worse moves up, and a search selects", async () => {
  const { page, problems } = await open("/");
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  const runs = () => page.$eval("#service-worker_1", (row) => row.innerHTML);
  const before = await runs();
  await page.$eval("#service-worker_1", (row) => row.scrollIntoView());
  await eventually("the row changes", async () => (await runs()) !== before);
  await fetch(`${site.base}/services/worker_30/pause`, { method: "POST", body: '{"by": "bob", "why": "a test"}' });
  await page.evaluate(() => scrollTo(0, 0));
  const place = () => page.$$eval("li.row", (rows) => rows.findIndex((row) => row.dataset.id === "worker_30"));
  await eventually("it moves up", async () => (await place()) < 8);
  await page.keyboard.press("/");
  assert.equal(await page.$eval("#search", (search) => search === document.activeElement), false, "no key is a shortcut");
  await page.type("#search", "worker_3");
  const shown = await page.$$eval("li.row", (rows) => rows.filter((row) => !row.hidden).map((row) => row.dataset.id));
  assert.ok(shown.length > 0 && shown.every((id) => id.startsWith("worker_3")), shown.join());
  assert.deepEqual(problems, []);
});

test("a row becomes degraded without an event", async () => {
  // A run that hangs sends no event, and a service that is paused looks the same to a page without events.
  const silent = () => {
    window.EventSource = class {
      constructor() { setTimeout(() => this.onopen()); }
      addEventListener() {}
      close() {}
    };
  };
  const { page, problems } = await open("/", { before: silent });
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  const shows = (status) => page.$eval("#service-worker_29", (row, status) => row.classList.contains(status), status);
  assert.equal(await shows("healthy"), true);
  let requests = 0;
  page.on("request", () => { requests += 1; });
  await fetch(`${site.base}/services/worker_29/pause`, { method: "POST", body: '{"by": "bob", "why": "a test"}' });
  await eventually("the row is degraded", () => shows("degraded"));
  // Other services change as well: the counts are those of the rows at one moment.
  const [counted, rows] = await page.evaluate(() => [
    Array.from(document.querySelectorAll("#summary b"), (count) => Number(count.textContent)),
    ["unhealthy", "degraded", "healthy"].map((status) => document.querySelectorAll(`li.row.${status}`).length),
  ]);
  assert.deepEqual(counted, rows);
  assert.ok(requests <= 6, `${requests} requests`);
  await fetch(`${site.base}/services/worker_29/resume`, { method: "POST", body: '{"by": "bob", "why": "a test"}' });
  assert.deepEqual(problems, []);
});

test("the state of the connection is announced when it changes, and only then", async () => {
  for (const path of ["/ui/services/worker_4", "/ui/replicas"]) {
    const { page } = await open(path);
    await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
    await page.evaluate(() => {
      window.announced = [];
      const connection = document.getElementById("connection");
      const announce = () => { window.announced.push(connection.textContent); };
      new MutationObserver(announce).observe(connection, { childList: true, characterData: true, subtree: true });
      window.reads = 0;
      const read = window.fetch;
      window.fetch = (...what) => { window.reads += 1; return read(...what); };
    });
    await eventually("the page is read twice", () => page.evaluate(() => window.reads >= 2));
    assert.deepEqual(await page.evaluate(() => window.announced), [], path);
  }
});

test("a page whose token is not valid any more has a link to log in again", async () => {
  for (const path of ["/ui/services/worker_4", "/", "/ui/replicas"]) {
    const { page } = await open(path);
    await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
    await page.evaluate(() => {
      window.read = window.fetch;
      window.fetch = async () => new Response("", { status: 401 });
    });
    await eventually("it says so", async () => (await textOf(page, "#connection")) === "○ log in again");
    const target = await page.$eval("#connection a", (link) => link.pathname);
    // The answer to a page without a valid token is the login, which leads back to the page.
    assert.equal(target, path);
    await page.evaluate(() => { window.fetch = window.read; });
    await eventually("it is live again", async () => (await textOf(page, "#connection")) === "● live");
  }
});

test("a part with the focus stays current and keeps the focus", async () => {
  const { page, problems } = await open("/ui/services/price_sync");
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  const run = () => fetch(`${site.base}/services/price_sync/run`, { method: "POST" });
  // Every fifth run fails.
  while (!(await page.$("#now summary"))) {
    await run();
    await new Promise((resolve) => setTimeout(resolve, 800));
  }
  const wasOpen = await page.$eval("#now details", (details) => details.open);
  await page.click("#now summary");
  const runs = (await health("price_sync")).runs + 1;
  await run();
  const facts = () => page.$eval("#now", (part) => part.innerText);
  const shown = async () => Number((await facts()).match(/(\d+), \d+ failures/)?.[1]);
  await eventually("the run is shown", async () => (await shown()) >= runs);
  assert.equal(await page.$eval("#now details", (details) => details.open), !wasOpen);
  assert.equal(await page.$eval("#now summary", (summary) => summary === document.activeElement), true);
  await page.click("#runs .scroll");
  await run();
  await eventually("the run is in the table", async () => Number(await textOf(page, "#runs tbody td")) > runs);
  assert.equal(await page.$eval("#runs .scroll", (table) => table === document.activeElement), true);
  assert.deepEqual(problems, []);
});

test("what a person has selected stays, and the page says so", async () => {
  const { page, problems } = await open("/ui/services/worker_4");
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  await page.$eval("#runs table", (table) => getSelection().selectAllChildren(table));
  const newest = () => textOf(page, "#runs tbody td");
  const selected = await newest();
  await eventually("the page says that a part is not current", async () => (await textOf(page, "#connection")).startsWith("◐"));
  assert.equal(await newest(), selected);
  assert.equal(await page.evaluate(() => getSelection().isCollapsed), false);
  await page.evaluate(() => getSelection().removeAllRanges());
  await eventually("a new run is shown", async () => (await newest()) !== selected);
  await eventually("the page is live again", async () => (await textOf(page, "#connection")) === "● live");
  assert.deepEqual(problems, []);
});

test("a double click sends a command once", async () => {
  // Its runs are the longest ones, so the second click is before the answer.
  const { page } = await open("/ui/services/worker_22");
  let sent = 0;
  page.on("request", (request) => { if (request.method() === "POST") sent += 1; });
  await sign(page, "command", "a test");
  await Promise.all([
    page.waitForNavigation({ waitUntil: "domcontentloaded" }),
    page.click("button[value=run]", { count: 2, delay: 10 }),
  ]);
  assert.equal(await textOf(page, ".message"), "Done: run.");
  assert.equal(sent, 1);
});

test("a search says that no service matches, and does not change the counts", async () => {
  const { page, problems } = await open("/ui/services?q=worker_3");
  const all = (await (await fetch(`${site.base}/services`)).json()).length;
  const counted = () => page.$$eval("#summary b", (counts) => counts.reduce((sum, one) => sum + Number(one.textContent), 0));
  const isShown = (selector) => page.$$eval(selector, (all) => all.some((element) => !element.hidden));
  await eventually("the other rows are there", async () => (await page.$$("li.row")).length === all);
  assert.equal(await counted(), all);
  assert.deepEqual([await isShown("li.row"), await isShown("#none")], [true, false]);
  await page.type("#search", " nothing");
  assert.deepEqual([await isShown("li.row"), await isShown("#none")], [false, true]);
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  assert.equal(await isShown("#none"), true);
  await page.$eval("#search", (search) => { search.value = ""; search.dispatchEvent(new Event("input")); });
  assert.deepEqual([await isShown("li.row"), await isShown("#none")], [true, false]);
  assert.equal(await counted(), all);
  assert.deepEqual(problems, []);
});

test("the overrides of an open page change, but not while a person fills in their form", async () => {
  const { page, problems } = await open("/ui/services/worker_11");
  await eventually("the page is live", async () => (await textOf(page, "#connection")) === "● live");
  const shown = () => page.$eval("[aria-labelledby=overrides]", (part) => part.innerText);
  const change = async (method, body) => {
    const address = `${site.base}/services/worker_11/overrides/interval`;
    assert.equal((await fetch(address, { method, body: JSON.stringify(body) })).status, 200);
  };
  await change("PUT", { value: 3, by: "bob" });
  await eventually("the override is shown", async () => (await shown()).includes("interval = 3"));
  await page.type("#remove-0-why", "a half of a reason");
  await page.evaluate(() => document.activeElement.blur());
  await change("PUT", { value: 4, by: "bob" });
  await eventually("the page says that a part is not current", async () => (await textOf(page, "#connection")).startsWith("◐"));
  assert.match(await shown(), /interval = 3/);
  assert.equal(await page.$eval("#remove-0-why", (input) => input.value), "a half of a reason");
  await page.$eval("#remove-0-why", (input) => { input.value = ""; });
  await eventually("it follows", async () => (await shown()).includes("interval = 4"));
  await change("DELETE", { by: "bob" });
  await eventually("it is gone", async () => !(await shown()).includes("interval = "));
  assert.deepEqual(problems, []);
});

test("a link of another site leads to the page, if a person is logged in", async () => {
  const guarded = await startSite(process.env.ADMIN_SITE, 8, { ADMIN_ADDR: "0.0.0.0:0", ADMIN_TOKEN: "s3cret" });
  const target = `${guarded.base.replace("0.0.0.0", "127.0.0.1")}/ui/services/worker_1`;
  const chat = createServer((_, response) => {
    response.setHeader("content-type", "text/html").end(`<a href="${target}">the alert</a>`);
  });
  await new Promise((resolve) => { chat.listen(0, "127.0.0.1", resolve); });
  try {
    const page = await browser.newPage();
    const follow = async () => {
      // For a browser, `localhost` is another site than `127.0.0.1`.
      await page.goto(`http://localhost:${chat.address().port}/`);
      await page.click("a");
    };
    let requests = 0;
    let loaded = 0;
    page.on("request", (request) => { if (request.url() === target) requests += 1; });
    page.on("domcontentloaded", () => { loaded += 1; });
    await follow();
    await eventually("the page is requested once more", () => loaded >= 3);
    assert.match(await textOf(page, "h1"), /Log in/);
    await page.type("#token", "s3cret");
    await press(page, "form button");
    assert.equal(await textOf(page, "h1"), "worker_1");
    assert.equal(requests, 3, "twice before the login, and once after it");
    await follow();
    await eventually("the page is shown", () => page.$eval("h1", (title) => title.textContent === "worker_1").catch(() => false));
    assert.equal(page.url(), target);
  } finally {
    chat.close();
    guarded.stop();
  }
});

test("the page of replicas says which one runs what, and what is wrong, and changes by itself", async () => {
  const { page, problems } = await open("/ui/replicas");
  const rows = (label) => page.$$eval(`ul[aria-label="${label}"] li`, (all) => all.map((row) => row.innerText));
  const replicas = await rows("Replicas");
  assert.match(replicas[0], /web-4 \(pid 12\).*silent/);
  assert.match(replicas.at(-1), /web-3 \(pid 4711\).*gone/);
  const services = await rows("Services, the worst first");
  assert.match(services.join("\n"), /ledger_export.*degraded\s+its holder has been silent for[\s\S]*web-4 \(pid 12\)[\s\S]*41/);
  assert.match(services.join("\n"), /tax_report.*degraded\s+on .*: failed.*the form <2026> has no field/);
  const heartbeat = () => page.$$eval('ul[aria-label="Replicas"] li.row:not(.degraded):not(.unhealthy) time', (all) => all[0].dateTime);
  const before = await heartbeat();
  await eventually("a heartbeat is shown", async () => (await heartbeat()) !== before);
  assert.deepEqual(problems, []);
});

test("a run that is requested on a replica that stands by is made by the one that runs the service", async () => {
  const { page } = await open("/ui/services/daily_invoices", { script: false });
  assert.match(await textOf(page, "#now"), /standby: held by .*, epoch \d+, renewed /);
  await sign(page, "command", "the invoices are needed now");
  await press(page, "button[value=run]");
  assert.equal(await textOf(page, ".message.done"), "Done: run.");
  assert.equal((await health("daily_invoices")).runs, 0);
});

test("everything but the live updates works without JavaScript and with the keyboard", async () => {
  const { page } = await open("/ui/services/worker_9", { script: false });
  await page.focus("#command-by");
  await page.keyboard.type("eve");
  await page.keyboard.press("Tab");
  await page.keyboard.type("a test of the keyboard");
  for (;;) {
    await page.keyboard.press("Tab");
    const focused = await page.$("button[value=pause]:focus");
    if (focused) break;
  }
  await Promise.all([page.waitForNavigation({ waitUntil: "domcontentloaded" }), page.keyboard.press("Enter")]);
  assert.equal((await health("worker_9")).paused, true);
  await page.goto(`${site.base}/ui/services?q=worker_9`, { waitUntil: "domcontentloaded" });
  assert.equal((await page.$$("li.row")).length, 1);
});
