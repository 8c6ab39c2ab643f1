/** By planted bug: the first schedule that shows it. */
export const shownBy: Readonly<Record<string, number>> = {};
