// What every page owes to those who listen to it, or see badly: names, order, contrast. Returns
// what is wrong, in words. Run as the body of a function.
const wrong = [];
const seen = (node) => node.checkVisibility({ visibilityProperty: true });
const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
const spoken = (node) => `${node.tagName.toLowerCase()}#${node.id}.${node.className}: ${node.textContent.trim().slice(0, 40)}`;

const named = (node) =>
  node.getAttribute('aria-label') || node.labels?.[0]?.textContent.trim() || node.textContent.trim() ||
  (node.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('').trim();
for (const node of all('button, a[href], input, select, textarea, dialog, nav, [role=img], [tabindex="0"]')) {
  if (!named(node)) wrong.push(`without a name: ${spoken(node)}`);
}
for (const image of all('img')) if (!image.hasAttribute('alt')) wrong.push(`without alt: ${image.src}`);
for (const one of all('[aria-labelledby], [aria-describedby], [aria-controls]')) {
  for (const kind of ['aria-labelledby', 'aria-describedby', 'aria-controls']) {
    for (const id of (one.getAttribute(kind) ?? '').split(' ').filter(Boolean)) {
      if (!document.getElementById(id)) wrong.push(`${kind} leads nowhere: ${spoken(one)}`);
    }
  }
}
const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) wrong.push(`twice: #${id}`);
if (all('main').length !== 1 || all('nav').length !== 1 || all('header').length !== 1) wrong.push('landmarks are missing');
if (all('h1').length !== 1) wrong.push(`${all('h1').length} headings of the first level`);
let level = 0;
for (const head of all('main h1, main h2, main h3, main h4')) {
  const own = Number(head.tagName[1]);
  if (own > level + 1 && !(level === 1 && own === 3)) wrong.push(`a level is left out before ${spoken(head)}`);
  level = own;
}
if (!document.documentElement.lang) wrong.push('no language');

const rgb = (colour) => {
  const parts = colour.match(/[\d.]+/g).map(Number);
  return colour.startsWith('color(') ? [...parts.slice(0, 3).map((one) => one * 255), parts[3] ?? 1] : [...parts.slice(0, 3), parts[3] ?? 1];
};
const over = ([r, g, b, a], under) => [r, g, b].map((one, index) => one * a + under[index] * (1 - a));
const behind = (node) => {
  const chain = [];
  for (let one = node; one; one = one.parentElement) chain.unshift(rgb(getComputedStyle(one).backgroundColor));
  return chain.reduce((under, colour) => over(colour, under), matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0] : [255, 255, 255]);
};
const light = (colour) => {
  const [r, g, b] = colour.map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !seen(node) || node.closest('[disabled], .unseen, .skip, option, [aria-hidden=true]')) continue;
  const under = behind(node);
  const [one, other] = [light(over(rgb(getComputedStyle(node).color), under)), light(under)].sort((a, b) => b - a);
  const contrast = (one + 0.05) / (other + 0.05);
  if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(2)}: ${spoken(node)}`);
}
return [...new Set(wrong)];
