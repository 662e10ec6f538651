"use strict";

const AT_ONCE = 6; // requests at the same time, each with one image, so that progress is seen
const MOST_TRIES = 30; // while the service is busy
const TOO_BUSY = 503;
const MILLISECONDS_BETWEEN_VIEWS = 200;
const CARDS_AT_ONCE = 120; // thousands would make every change of the page slow

const elements = {};
for (const element of document.querySelectorAll("[id]")) elements[element.id] = element;

// The page may have been opened as http://user:password@…, but such an address cannot be fetched.
const BASE = location.origin + location.pathname;

const images = []; // {name, number, file, heatmap, prediction, card}; only images that are shown have a card
const problems = []; // {name, problem}
const waiting = []; // files that are not sent yet
let removal = new AbortController(); // ends what is being sent when all images are removed
let model = null;
let threshold = null;
let nSent = 0;
let nAdded = 0;
let nDone = 0;
let nNumbered = 0; // files that were sent since the page was opened
let nShown = CARDS_AT_ONCE;

async function start() {
  try {
    const answer = await fetch(`${BASE}model`);
    if (!answer.ok) throw new Error(await answer.text());
    model = await answer.json();
  } catch (error) {
    elements.status.textContent = `The service does not answer: ${error.message}. Reload this page to try again.`;
    return;
  }
  elements.name.textContent = model.name;
  document.title = `${model.name} – Anomaly Toolbox`;
  setThreshold(model.threshold);
  sendMore();
}

function add(files) {
  for (const file of files) {
    waiting.push(file);
    nAdded += 1;
  }
  sendMore();
}

/** Adds the images among many files, by their names. */
function addImages(files) {
  const found = files.filter(isImage);
  add(found);
  if (found.length === 0) elements.status.textContent = "There is no PNG, JPEG, BMP or TIFF image among these files.";
}

function sendMore() {
  showProgress();
  while (model !== null && nSent < AT_ONCE && waiting.length > 0) {
    nSent += 1;
    nNumbered += 1;
    const { signal } = removal;
    send(waiting.shift(), nNumbered, signal).finally(() => {
      nSent -= 1;
      if (!signal.aborted) nDone += 1;
      sendMore();
    });
  }
}

async function send(file, number, signal) {
  const name = file.webkitRelativePath || file.name;
  try {
    const prediction = await predictionOf(file, name, signal);
    if (signal.aborted) return;
    if (prediction.problem) addProblem(name, prediction.problem);
    else addImage(file, name, number, prediction);
  } catch (error) {
    if (!signal.aborted) addProblem(name, error.message);
  }
}

async function predictionOf(file, name, signal) {
  for (let tries = 1; ; tries += 1) {
    const form = new FormData();
    form.append("file", file, name);
    let answer;
    try {
      answer = await fetch(`${BASE}page-score`, { method: "POST", body: form, signal });
    } catch {
      throw new Error((await canBeRead(file)) ? "the service does not answer" : "the file cannot be read any more");
    }
    if (answer.ok) return (await answer.json()).predictions[0];
    const line = (await answer.text()).trim();
    if (answer.status !== TOO_BUSY || tries === MOST_TRIES) throw new Error(line || `status ${answer.status}`);
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

async function canBeRead(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

function addImage(file, name, number, prediction) {
  const heatmap = fileOf(prediction.heatmap);
  delete prediction.heatmap;
  images.push({ name, number, file, heatmap, prediction, card: null });
  show();
}

function addCard(image) {
  const card = elements.image.content.firstElementChild.cloneNode(true);
  const original = card.querySelector(".original");
  original.src = URL.createObjectURL(image.file);
  original.addEventListener("error", () => original.remove()); // no browser shows TIFF; the heatmap remains
  const heatmap = card.querySelector(".heatmap");
  heatmap.src = URL.createObjectURL(image.heatmap);
  heatmap.alt = `${image.name} with its anomaly heatmap`;
  card.querySelector(".file").textContent = image.name;
  image.card = card;
}

function removeCard(image) {
  for (const picture of image.card.querySelectorAll("img")) URL.revokeObjectURL(picture.src);
  image.card.remove();
  image.card = null;
}

function fileOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function addProblem(name, problem) {
  problems.push({ name, problem });
  const line = document.createElement("li");
  line.textContent = `${name}: ${problem}`;
  elements["problem-list"].append(line);
  elements.problems.hidden = false;
  show();
}

const ORDERS = {
  highest: (one, other) => other.prediction.score - one.prediction.score,
  lowest: (one, other) => one.prediction.score - other.prediction.score,
  name: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
  added: (one, other) => one.number - other.number,
};

let isShowing = false;

/** Shows the first images in the chosen order anew, a few times a second at most. */
function show() {
  if (isShowing || model === null) return;
  isShowing = true;
  setTimeout(() => {
    isShowing = false;
    images.sort(ORDERS[elements.order.value]);
    for (const image of images.slice(nShown)) if (image.card) removeCard(image);
    const shown = images.slice(0, nShown);
    for (const image of shown) if (!image.card) addCard(image);
    elements.images.replaceChildren(...shown.map((image) => image.card));
    elements.more.hidden = images.length <= nShown;
    elements.controls.hidden = images.length + problems.length === 0;
    decide();
  }, MILLISECONDS_BETWEEN_VIEWS);
}

/** The lowest and the highest score of the scale on which all scores are shown. */
function scaleRange() {
  let [low, high] = model.score_range;
  low = Math.min(low, model.threshold);
  high = Math.max(high, model.threshold);
  for (const { prediction } of images) {
    low = Math.min(low, prediction.score);
    high = Math.max(high, prediction.score);
  }
  const margin = high > low ? 0.02 * (high - low) : 1; // so that no image is anomalous at the end of the slider
  return [low - margin, high + margin];
}

function decide() {
  const [low, high] = scaleRange();
  const percent = (score) => `${Math.min(100, Math.max(0, (100 * (score - low)) / (high - low)))}%`;
  let nAnomalous = 0;
  for (const { prediction, card } of images) {
    const isAnomalous = prediction.score >= threshold;
    nAnomalous += isAnomalous;
    if (!card) continue;
    card.classList.toggle("anomalous", isAnomalous);
    card.querySelector(".verdict").textContent = isAnomalous ? "anomalous" : "normal";
    card.querySelector(".score").textContent =
      `score ${short(prediction.score)}, calibrated ${prediction.calibrated.toFixed(2)}`;
    card.querySelector(".mark").style.width = percent(prediction.score);
    card.querySelector(".limit").style.left = percent(threshold);
  }
  const shown = images.length > nShown ? `; the first ${nShown} are shown` : "";
  elements.summary.textContent = `${nAnomalous} of ${images.length} images are anomalous${shown}`;
  elements.threshold.value = Math.round((1000 * (threshold - low)) / (high - low));
  elements["threshold-value"].textContent = short(threshold);
  elements.threshold.setAttribute("aria-valuetext", short(threshold));
  const normal = model.normal_scores;
  const nAbove = normal.filter((score) => score >= threshold).length;
  elements.alarms.textContent = normal.length
    ? `${((100 * nAbove) / normal.length).toFixed(1)}% of the normal validation images would be called anomalous.`
    : "The run is of an earlier version and has no scores of normal validation images.";
}

function setThreshold(value) {
  threshold = value;
  decide();
}

function short(number) {
  return Number(number.toPrecision(4)).toString();
}

function showProgress() {
  if (model === null) return;
  const isBusy = nDone < nAdded;
  elements.progress.hidden = !isBusy;
  elements.progress.max = nAdded;
  elements.progress.value = nDone;
  if (nAdded === 0) return;
  const unusable = problems.length > 0 ? `; ${problems.length} cannot be used` : "";
  const done = nAdded === 1 ? "1 file is done" : `${nAdded} files are done`;
  elements.status.textContent = (isBusy ? `${nDone} of ${nAdded} files are done` : done) + unusable;
}

function csv() {
  const lines = [["file", "score", "calibrated", "anomalous", "problem", "p_value"]];
  for (const { name, prediction } of images) {
    const verdict = prediction.score >= threshold ? "yes" : "no";
    lines.push([name, prediction.score, prediction.calibrated, verdict, "", prediction.p_value ?? ""]);
  }
  for (const { name, problem } of problems) lines.push([name, "", "", "", problem, ""]);
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return lines.map((line) => `${line.map(quoted).join(",")}\n`).join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `${model.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function removeAll() {
  removal.abort();
  removal = new AbortController();
  waiting.length = 0;
  for (const image of images) if (image.card) removeCard(image);
  nAdded = 0;
  nDone = 0;
  nShown = CARDS_AT_ONCE;
  images.length = 0;
  problems.length = 0;
  elements["problem-list"].replaceChildren();
  elements.problems.hidden = true;
  elements.status.textContent = "";
  show();
  elements.files.focus();
}

/** All files of what was dropped, with those in folders. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...transfer.files];
  const files = [];
  while (entries.length > 0) {
    const entry = entries.shift();
    if (entry.isFile) {
      try {
        const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
        files.push(new File([file], entry.fullPath.replace(/^\//, ""), { type: file.type }));
      } catch (error) {
        addProblem(entry.fullPath, error.message);
      }
      continue;
    }
    const reader = entry.createReader();
    let some;
    do { // a reader gives a hundred entries at a time
      try {
        some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      } catch (error) {
        addProblem(entry.fullPath, `the folder cannot be read (${error.message})`);
        break;
      }
      entries.push(...some);
    } while (some.length > 0);
  }
  return files;
}

const isImage = (file) => /\.(png|jpe?g|bmp|tiff?)$/i.test(file.name);

elements.files.addEventListener("change", () => {
  add(elements.files.files);
  elements.files.value = "";
});
elements.folder.addEventListener("change", () => {
  addImages([...elements.folder.files]);
  elements.folder.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragged");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  const files = await filesOf(event.dataTransfer);
  if (files.length === 1) add(files);
  else addImages(files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
elements.threshold.addEventListener("input", () => {
  const [low, high] = scaleRange();
  setThreshold(low + (elements.threshold.value / 1000) * (high - low));
});
elements.reset.addEventListener("click", () => setThreshold(model.threshold));
elements.fade.addEventListener("input", () => {
  elements.images.style.setProperty("--fade", elements.fade.value / 100);
});
elements.order.addEventListener("change", show);
elements.more.addEventListener("click", () => {
  nShown += CARDS_AT_ONCE;
  show();
});
elements.csv.addEventListener("click", save);
elements.clear.addEventListener("click", removeAll);
start();
