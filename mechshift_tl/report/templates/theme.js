// Before anything is drawn: the theme that the reader chose last, or the system's.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("mechshift-theme"); } catch { /* a browser may forbid storage */ }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = kept || (dark ? "dark" : "light");
})();
