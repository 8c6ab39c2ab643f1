import { simulate } from "./simulate.ts";

const [seed, steps] = process.argv.slice(2).map(Number);
const result = simulate({ seed: seed ?? 1, steps: steps ?? 10_000 });
console.log(result);
