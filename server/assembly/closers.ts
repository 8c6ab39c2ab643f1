/** What an app must close. Run last in, first out; each is given its chance, and the first failure is reported. */
export type Closers = (() => Promise<void> | void)[];

export async function closeAll(closers: Closers): Promise<void> {
  let failure: unknown;
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      failure ??= error;
    }
  }
  if (failure) throw failure;
}
