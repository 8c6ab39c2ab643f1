/** How likely each fault is: of the effects it could hit, unless another unit is named. */
export type Faults = {
  loss: number;
  duplication: number;
  delay: number;
  storageBefore: number;
  storageAfter: number;
  /** That a process dies between two of its effects; of those in a sandbox four times as likely. */
  crash: number;
  /** That an ended sandbox still speaks for a while. */
  lingering: number;
  /** That a control plane takes its time between a look and the step it decides on. */
  slowStep: number;
  /** That a runner dies just when it says that its files are back. */
  lastWord: number;
  /** That a sandbox cannot be started, or hangs from its first moment. */
  start: number;
  upload: number;
  /** That the object store takes longer than anybody waits. */
  hang: number;
  /** That it does not give a snapshot that it has. */
  unreadable: number;
  damage: number;
  provider: number;
  streamCut: number;
};

export const noFaults: Faults = {
  loss: 0,
  duplication: 0,
  delay: 0,
  storageBefore: 0,
  storageAfter: 0,
  crash: 0,
  lingering: 0,
  slowStep: 0,
  lastWord: 0,
  start: 0,
  upload: 0,
  hang: 0,
  unreadable: 0,
  damage: 0,
  provider: 0,
  streamCut: 0,
};

export const stormy: Faults = {
  loss: 0.01,
  duplication: 0.02,
  delay: 0.02,
  storageBefore: 0.01,
  storageAfter: 0.01,
  crash: 0.001,
  lingering: 0.6,
  slowStep: 0.1,
  lastWord: 0.35,
  start: 0.03,
  upload: 0.05,
  hang: 0.2,
  unreadable: 0.25,
  damage: 0.05,
  provider: 0.05,
  streamCut: 0.01,
};
