// The changes that put a session away and bring it back (server/runners/hibernation.ts).
import { append, type Change, set } from "./tables.ts";
import { forgetCommands, goOn } from "./turns.ts";
import { times, type World } from "./world.ts";

export function keepAwake(world: World, one: Change): void {
  set(one, world.rules.keptAwake(one.row, one.now));
  append(one, "system", "hibernation_failed");
  goOn(world.rules, one);
}

/** Beside what waits for a person something is at work, which would be lost. */
export function putOff(world: World, one: Change): void {
  world.checker.putOff(one);
  if (one.row.desired === "hibernate") append(one, "system", "hibernation_failed");
  set(one, world.rules.puttingOff(one.now));
}

export function putAway(world: World, one: Change): void {
  forgetCommands(world.rules, one, one.row.last_command_id);
  set(one, world.rules.dormant(one.row, one.now));
}

export function finishRestore(world: World, one: Change): void {
  set(one, { ...world.rules.restored(one.row, one.now, times.maxSessionMs), ...world.rules.unparked(one.row) });
  append(one, "system", "resumed");
  goOn(world.rules, one);
}

export function failRestore(world: World, one: Change): void {
  set(one, world.rules.notRestored(one.row, one.now));
  putAway(world, one);
  append(one, "system", "resume_failed");
}
