"use strict";
// A tile opens larger, with what is said of it in full.
const large = document.getElementById("large");
document.addEventListener("click", (event) => {
  const tile = event.target.closest("button[data-say]");
  if (!tile) return;
  const image = document.getElementById("large-image");
  image.src = tile.querySelector("img").src;
  image.alt = tile.querySelector("img").alt;
  image.hidden = false;
  document.getElementById("large-text").textContent = tile.dataset.say;
  large.showModal();
});
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
// A field above a table leaves the lines that hold what is typed into it.
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = document.getElementById(field.dataset.filters).tBodies[0].rows;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
