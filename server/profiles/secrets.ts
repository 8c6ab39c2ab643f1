/** Collects what is wrong with a request: the path of a field, and a few words. */
export type Note = (field: string, message: string) => void;

/** The sent values, with the stored ones where an empty value stands for a name that is known. Readers only ever see empty values. */
export function mergeSecrets(sent: Readonly<Record<string, string>>, stored: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(sent).map(([name, value]) => [name, value === "" && Object.hasOwn(stored, name) ? stored[name]! : value]),
  );
}

/** The names with empty values: what readers see. */
export function namesOf(values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.keys(values).map((name) => [name, ""]));
}
