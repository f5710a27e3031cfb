// What the page of the demo holds against what it is told: nothing missed, nothing twice, in order.

/** Whether one id comes before another, as a number below, at or above 0. */
export const compare = (one, other) => {
  const [a, b] = one.split("-");
  const [c, d] = other.split("-");
  return a.length - c.length || (a < c ? -1 : a > c ? 1 : b.length - d.length || (b < d ? -1 : b > d ? 1 : 0));
};

/** What one device has shown, compared with what was pushed to its user. */
export class Checker {
  constructor() {
    Object.assign(this, { shown: new Set(), furthest: "0-0", due: new Map(), missed: new Set(), twice: 0, disorder: 0 });
  }

  saw(id) {
    if (this.shown.has(id)) return this.twice++;
    if (compare(id, this.furthest) < 0) this.disorder++;
    else {
      this.furthest = id;
      for (const each of this.due.keys()) if (compare(each, id) < 0) this.judge(each);
    }
    this.shown.add(id);
    this.due.delete(id);
    this.missed.delete(id);
  }

  pushed(id) {
    if (this.shown.has(id)) return;
    this.due.set(id, true);
    if (compare(id, this.furthest) < 0) this.judge(id);
  }

  judge(id) {
    this.due.delete(id);
    this.missed.add(id);
  }
}
