// Starts `admin-site`, with a database of its own, and a headless Chromium.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** Starts the program, with more of its environment. Returns its address and a function that ends it. */
export async function startSite(program, count, more = {}) {
  const directory = mkdtempSync(join(tmpdir(), "admin-site-"));
  const environment = { ...process.env, ADMIN_ADDR: "127.0.0.1:0", ADMIN_SITE_DATABASE: `sqlite:${directory}/site.db` };
  delete environment.ADMIN_TOKEN;
  Object.assign(environment, more);
  const site = spawn(program, [String(count)], { env: environment, stdio: ["ignore", "pipe", "ignore"] });
  const lines = createInterface({ input: site.stdout });
  const [line] = await Promise.race([
    new Promise((resolve) => { lines.once("line", (text) => resolve([text])); }),
    new Promise((_, reject) => { site.once("exit", (status) => reject(new Error(`admin-site ended with ${status}`))); }),
  ]);
  const stop = () => {
    site.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  };
  return { base: line.replace(/\/$/, ""), stop };
}

export function startBrowser() {
  const executablePath = CHROMIUM.find((path) => existsSync(path));
  if (!executablePath) throw new Error(`Chromium is not installed: there is none of ${CHROMIUM.join(", ")}`);
  return puppeteer.launch({ executablePath, headless: true, args: ["--no-sandbox", "--disable-gpu"] });
}

/** Waits until `is` returns something, for at most 20 s. */
export async function eventually(what, is) {
  const end = Date.now() + 20_000;
  for (;;) {
    const found = await is();
    if (found) return found;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
