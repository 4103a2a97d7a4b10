// The theme, the contents, links into what is folded, and paper.
const toggle = document.getElementById("theme"), menu = document.getElementById("menu"), contents = document.getElementById("contents");

function setTheme(name, keep) {
  document.documentElement.dataset.theme = name;
  toggle.textContent = name === "dark" ? "Light" : "Dark";
  toggle.setAttribute("aria-label", `Change to the ${name === "dark" ? "light" : "dark"} theme`);
  if (keep) try { localStorage.setItem("mechshift-theme", name); } catch { /* a browser may forbid storage */ }
  dispatchEvent(new Event("theme"));
}
toggle.addEventListener("click", () => setTheme(isDark() ? "light" : "dark", true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", event => setTheme(event.matches ? "dark" : "light"));
setTheme(document.documentElement.dataset.theme);

function showMenu(open) {
  contents.classList.toggle("open", open);
  menu.setAttribute("aria-expanded", open);
}
menu.addEventListener("click", () => showMenu(!contents.classList.contains("open")));
contents.addEventListener("click", event => event.target.closest("a") && showMenu(false));
addEventListener("keydown", event => event.key === "Escape" && showMenu(false));

// A link to something folded unfolds it, and what holds it.
function reveal(id) {
  const target = document.getElementById(id);
  if (!target) return;
  for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  requestAnimationFrame(() => target.scrollIntoView());
}
addEventListener("hashchange", () => reveal(decodeURIComponent(location.hash.slice(1))));
document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#'], a[*|href^='#']");
  if (link && link.getAttribute("href") === location.hash) reveal(decodeURIComponent(location.hash.slice(1)));
});
if (location.hash) reveal(decodeURIComponent(location.hash.slice(1)));

const links = new Map([...contents.querySelectorAll("a")].map(link => [link.hash.slice(1), link]));
const seen = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  links.forEach(link => link.removeAttribute("aria-current"));
  links.get(entry.target.id).setAttribute("aria-current", "location");
}), {rootMargin: "-50px 0px -75% 0px"});
links.forEach((_, id) => seen.observe(document.getElementById(id)));

// A table that may scroll can be reached by the keyboard.
document.querySelectorAll(".wide").forEach(one => one.setAttribute("tabindex", 0));

// On paper: everything but single components is unfolded, in the light theme, at the width of a page.
let before = null;
addEventListener("beforeprint", () => {
  before = {theme: document.documentElement.dataset.theme, folded: [...document.querySelectorAll("details.fold:not([open])")]};
  before.folded.forEach(one => { one.open = true; });
  setTheme("light");
  document.querySelectorAll(".plot").forEach(plot => draw(plot, 680));
});
addEventListener("afterprint", () => {
  before.folded.forEach(one => { one.open = false; });
  setTheme(before.theme);
});
