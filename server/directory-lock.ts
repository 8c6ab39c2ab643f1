import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import net from "node:net";

/** Another Carrel runs over this data directory. Two would fight over the same sandboxes. */
export class DirectoryLockedError extends Error {
  override name = "DirectoryLockedError";
}

/**
 * Holds a directory for this process until it ends, however it ends: the lock is a name in the kernel's abstract socket
 * space, which goes with its owner. Throws `DirectoryLockedError`.
 */
export async function lockDirectory(directory: string): Promise<{ release(): Promise<void> }> {
  const name = createHash("sha256").update(realpathSync(directory)).digest("hex").slice(0, 32);
  const server = net.createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "EADDRINUSE" ? new DirectoryLockedError(`another Carrel runs over ${directory}; stop it first`) : error),
    );
    server.listen(`\0carrel-${name}`, resolve);
  });
  return { release: () => new Promise((resolve) => server.close(() => resolve())) };
}
