// Renews <main> while nobody works in it, asks before deeds, and tells what lies under the pointer on the heat map.
"use strict";

const main = document.getElementById("main");
const live = document.getElementById("live");
const tip = document.getElementById("tip");
const seconds = Number(main.dataset.renew || 0);

function isInUse() {
  const at = document.activeElement;
  const selected = window.getSelection();
  return (at && at !== main && main.contains(at)) || (selected && !selected.isCollapsed && main.contains(selected.anchorNode));
}

async function renew() {
  if (document.hidden || isInUse() || live.getAttribute("aria-pressed") !== "true") return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Fragment": "main" } });
    if (answer.redirected || !answer.ok) return location.reload();
    const text = await answer.text();
    if (isInUse()) return;
    const scrolled = [...main.querySelectorAll(".scroll")].map((area) => area.scrollLeft);
    main.innerHTML = text;
    main.querySelectorAll(".scroll").forEach((area, number) => { area.scrollLeft = scrolled[number] || 0; });
    live.textContent = "Live";
    tip.hidden = true;
  } catch {
    live.textContent = "Not reachable";
  }
}

if (seconds && live) {
  live.hidden = false;
  live.addEventListener("click", () => {
    const on = live.getAttribute("aria-pressed") !== "true";
    live.setAttribute("aria-pressed", String(on));
    if (on) renew();
  });
  setInterval(renew, seconds * 1000);
}

main.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

main.addEventListener("pointermove", (event) => {
  const map = event.target.closest("#heatmap");
  const figures = document.getElementById("heat-figures");
  if (!map || !figures) { tip.hidden = true; return; }
  if (figures !== renew.source) { renew.source = figures; renew.figures = JSON.parse(figures.textContent); }
  const { gutter, top, bottom, titles, rates, slots } = renew.figures;
  const box = map.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width - gutter) / (1 - gutter);
  const y = ((event.clientY - box.top) / box.height - top) / (bottom - top);
  const row = Math.floor(y * titles.length), column = Math.floor(x * slots.length);
  if (x < 0 || y < 0 || row >= titles.length || column >= slots.length) { tip.hidden = true; return; }
  const time = new Date(slots[column] * 1000).toLocaleTimeString();
  tip.textContent = `${time} · ${rates[row][column]} requests/s · ${titles[row]}`;
  tip.hidden = false;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
});
main.addEventListener("pointerleave", () => { tip.hidden = true; });
