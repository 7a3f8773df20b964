// Opens pages in Chromium and says what it sees, as JSON: look.mjs CHROMIUM FILE...
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [program, ...files] = process.argv.slice(2);
const shots = process.env.MS5_SCREENSHOTS;

const VIEWS = [
  { name: "desktop-light", width: 1280, scheme: "light", media: "screen" },
  { name: "desktop-dark", width: 1280, scheme: "dark", media: "screen" },
  { name: "phone-light", width: 360, scheme: "light", media: "screen" },
  { name: "phone-dark", width: 360, scheme: "dark", media: "screen" },
  // A4 at 96 dots an inch, less its margins.
  { name: "print", width: 688, scheme: "dark", media: "print" },
];

// Runs in the page: what a view shows that it must not.
function measure() {
  const wide = window.innerWidth;
  const shown = (element) => element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
  const scrolls = (element) => {
    for (let up = element.parentElement; up && up !== document.body; up = up.parentElement) {
      if (up.scrollWidth > up.clientWidth && /auto|scroll|hidden/.test(getComputedStyle(up).overflowX)) return true;
    }
    return false;
  };
  const name = (element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}: ${element.textContent.trim().slice(0, 60)}`;
  const beyond = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (!shown(element) || element.closest("thead")) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.left < -0.5 || box.right > wide + 0.5) && !scrolls(element)) beyond.push(name(element));
  }

  // Words of a chart that run into each other, or out of it: nothing breaks their lines.
  const crowded = [];
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim()).map((text) => ({ text, box: text.getBoundingClientRect() }));
    for (const [place, { text, box }] of words.entries()) {
      if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5) {
        crowded.push(`out of its chart: ${name(text)}`);
      }
      for (const other of words.slice(place + 1)) {
        const across = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        const down = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        // A line's box is higher than its letters.
        if (across > 0 && down > 2) crowded.push(`${name(text)} and ${name(other.text)}`);
      }
    }
  }
  // The same of the cells of a table, and of the names that they have on a phone.
  const pen = document.createElement("canvas").getContext("2d");
  for (const row of document.querySelectorAll("tbody tr")) {
    if (!shown(row)) continue;
    const lines = [];
    for (const cell of row.cells) {
      const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
      for (let node = texts.nextNode(); node; node = texts.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const box of range.getClientRects()) if (box.width > 0) lines.push({ cell, box });
      }
      const named = getComputedStyle(cell, "::before");
      if (named.content === "none" || named.content === "normal") continue;
      pen.font = `${named.fontSize} ${named.fontFamily}`;
      const longest = Math.max(...cell.dataset.label.split(" ").map((word) => pen.measureText(word).width));
      if (longest > parseFloat(named.width) + 1) crowded.push(`${cell.dataset.label} over ${name(cell)}`);
    }
    for (const [place, { cell, box }] of lines.entries()) {
      for (const other of lines.slice(place + 1)) {
        if (cell === other.cell) continue;
        const across = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        const down = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        if (across > 0.5 && down > 2) crowded.push(`${name(cell)} and ${name(other.cell)}`);
      }
    }
  }

  const colour = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return { r, g, b, a };
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const found = colour(getComputedStyle(up).backgroundColor);
      if (found.a > 0.99) return found;
    }
    return { r: 255, g: 255, b: 255, a: 1 };
  };
  let contrast = 21;
  const faint = [];
  let letters = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !shown(element) || element.closest("title, desc, style")) continue;
    letters += node.data.trim().length;
    const style = getComputedStyle(element);
    const [front, back] = [light(colour(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    contrast = Math.min(contrast, ratio);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${name(element)}`);
  }
  const folded = [...document.querySelectorAll("details.print > :not(summary)")].filter((element) => !shown(element)).length;
  return { wide, content: document.scrollingElement.scrollWidth, beyond: beyond.slice(0, 20), crowded: crowded.slice(0, 20), contrast, faint: faint.slice(0, 20), letters, folded };
}

// Runs in the page: what stands there, whatever the view.
function read() {
  const text = (id) => document.getElementById(id)?.textContent ?? "";
  const records = [...document.querySelectorAll("[data-record]")].map((element) => ({
    record: element.dataset.record,
    key: element.dataset.key,
    fields: Object.fromEntries(
      [...element.querySelectorAll("data[data-field]")]
        .filter((figure) => figure.closest("[data-record]") === element)
        .map((figure) => [figure.dataset.field, { value: figure.getAttribute("value"), text: figure.textContent }]),
    ),
  }));
  return {
    title: document.title,
    lang: document.documentElement.lang,
    scripts: document.querySelectorAll("script, [onload], [onclick], [onerror], a[href^='javascript']").length,
    headings: [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((heading) => Number(heading.tagName[1])),
    charts: [...document.querySelectorAll("svg")].map((svg) => ({
      role: svg.getAttribute("role"),
      name: text(svg.getAttribute("aria-labelledby")),
      about: text(svg.getAttribute("aria-describedby")),
    })),
    tables: [...document.querySelectorAll("table")].map((table) => ({
      caption: table.caption?.textContent ?? "",
      columns: table.querySelectorAll("thead th[scope=col]").length,
      named: [...table.tBodies[0].rows].every((row) => row.cells[0].scope === "row"),
    })),
    ids: [...document.querySelectorAll("[id]")].map((element) => element.id),
    links: [...document.querySelectorAll("a")].map((link) => link.getAttribute("href")),
    items: [...document.querySelectorAll(".item")].map((item) => item.textContent),
    verdict: document.querySelector(".verdict")?.textContent ?? "",
    order: [...document.querySelectorAll("details.test")].map((test) => test.dataset.key),
    text: document.body.textContent,
    records,
  };
}

async function look(browser, file) {
  const context = await browser.newContext({ javaScriptEnabled: false, offline: true, viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const address = pathToFileURL(file).href;
  const requests = [];
  page.on("request", (request) => request.url() === address || requests.push(request.url()));
  const complaints = [];
  page.on("console", (message) => complaints.push(message.text()));
  await page.goto(address);
  const seen = await page.evaluate(read);
  const views = [];
  for (const { name, width, scheme, media } of VIEWS) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme: scheme, media });
    if (shots) {
      await page.screenshot({ path: join(shots, `${basename(file, ".html")}-${name}.png`), fullPage: true });
    }
    views.push({ name, open: false, ...(await page.evaluate(measure)) });
    await page.evaluate(() => document.querySelectorAll("details:not([open])").forEach((one) => one.setAttribute("open", "opened")));
    views.push({ name, open: true, ...(await page.evaluate(measure)) });
    await page.evaluate(() => document.querySelectorAll("details[open=opened]").forEach((one) => one.removeAttribute("open")));
  }
  if (shots) {
    copyFileSync(file, join(shots, basename(file)));
    await page.emulateMedia({ media: "print" });
    await page.pdf({ path: join(shots, `${basename(file, ".html")}.pdf`), format: "A4", preferCSSPageSize: true });
  }
  await context.close();
  return { file, requests, complaints, views, ...seen };
}

const profile = mkdtempSync(join(tmpdir(), "ms5-browser-"));
try {
  const browser = await chromium.launch({
    executablePath: program,
    headless: true,
    // The pages are ours; a sandbox of the browser's own wants rights that not every machine gives.
    chromiumSandbox: false,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
    env: { ...process.env, HOME: profile, XDG_CACHE_HOME: profile, XDG_CONFIG_HOME: profile },
    timeout: 60_000,
  });
  const pages = [];
  for (const file of files) pages.push(await look(browser, file));
  await browser.close();
  process.stdout.write(`${JSON.stringify(pages)}\n`);
} finally {
  rmSync(profile, { recursive: true, force: true });
}
