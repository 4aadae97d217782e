// Light or dark: the system's choice until the button is pressed, and remembered from then on.
(() => {
  const KEY = "heliograph.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  // Storage throws where the browser forbids it; then the choice lasts as long as the page.
  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  const remember = (theme) => {
    try {
      if (theme) localStorage.setItem(KEY, theme);
      else localStorage.removeItem(KEY);
    } catch {
      // Nothing to do: see above.
    }
  };

  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  const choice = remembered();
  if (choice === "light" || choice === "dark") root.dataset.theme = choice;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    system.addEventListener("change", show);
    button.addEventListener("click", () => {
      const dark = !isDark();
      // Back at what the system says, the page follows the system again.
      if (dark === system.matches) {
        delete root.dataset.theme;
        remember(null);
      } else {
        root.dataset.theme = dark ? "dark" : "light";
        remember(root.dataset.theme);
      }
      show();
    });
    show();
  });
})();
