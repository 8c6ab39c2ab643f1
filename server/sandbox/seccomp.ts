import { constants } from "node:os";
import { examinedCall, refusedCalls, type SeccompArchitecture } from "./syscalls.ts";

// One classic BPF instruction: operation, how many instructions to skip when a comparison is true or false, operand.
type Instruction = readonly [operation: number, ifTrue: number, ifFalse: number, operand: number];

const loadWord = 0x20;
const jumpIfEqual = 0x15;
const jumpIfAtLeast = 0x35;
const jumpIfAnyBit = 0x45;
const giveBack = 0x06;

const allow = 0x7fff0000;
const killProcess = 0x80000000;
const failWith = (errno: number) => 0x00050000 | errno;

// Offsets in the record the kernel shows a filter. Both architectures are little endian: the low half comes first.
const callNumber = 0;
const auditArchitecture = 4;
const argument = (index: number) => 16 + 8 * index;

const auditArchitectures: Record<SeccompArchitecture, number> = { x64: 0xc000003e, arm64: 0xc00000b7 };

// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const anyNewNamespace = 0x7e020000;
// Both write into the input of a terminal that a sandbox might have been given by mistake.
const typingIoctls = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];
// Linux, 32-bit Linux, both with the old version number, and the question which one it is.
const knownPersonalities = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];
// Unix, IPv4, IPv6. Vsock above all must not pass: no namespace covers it, it reaches the machine's host.
const knownFamilies = [1, 2, 10];
const netlink = 16;
// Interface and address lists; the other netlink protocols configure firewalls, audit and the like.
const netlinkRoute = 0;
const firstX32Call = 0x40000000;

/**
 * The filter every program of a sandbox runs under, in the kernel's binary form (`struct sock_filter[]`).
 * It names what is refused: an allow-list would break tools on every new kernel and library. Refusals are EPERM, so
 * that programs can report them; clone3 is ENOSYS because its flags are out of a filter's sight and C libraries then
 * use clone, whose flags are not. A call made in another architecture's convention kills the process.
 */
export function seccompProgram(architecture: SeccompArchitecture): Uint8Array {
  const { EPERM, ENOSYS } = constants.errno;
  const refuse = give(failWith(EPERM));
  const program: Instruction[] = [
    [loadWord, 0, 0, auditArchitecture],
    ...unless(jumpIfEqual, auditArchitectures[architecture], give(killProcess)),
    [loadWord, 0, 0, callNumber],
    ...when(jumpIfAtLeast, firstX32Call, give(failWith(ENOSYS))),
    ...refusedCalls(architecture).flatMap(({ number }) => when(jumpIfEqual, number, refuse)),
    ...when(jumpIfEqual, examinedCall(architecture, "clone3"), give(failWith(ENOSYS))),
    ...when(jumpIfEqual, examinedCall(architecture, "clone"), [
      [loadWord, 0, 0, argument(0)],
      ...when(jumpIfAnyBit, anyNewNamespace, refuse),
      ...give(allow),
    ]),
    ...when(jumpIfEqual, examinedCall(architecture, "ioctl"), [
      [loadWord, 0, 0, argument(1)],
      ...typingIoctls.flatMap((request) => when(jumpIfEqual, request, refuse)),
      ...give(allow),
    ]),
    ...when(jumpIfEqual, examinedCall(architecture, "personality"), [
      [loadWord, 0, 0, argument(0)],
      ...knownPersonalities.flatMap((value) => when(jumpIfEqual, value, give(allow))),
      ...refuse,
    ]),
    ...when(jumpIfEqual, examinedCall(architecture, "socket"), socketRule()),
    ...when(jumpIfEqual, examinedCall(architecture, "socketpair"), socketRule()),
    ...give(allow),
  ];
  return encode(program);

  function socketRule(): Instruction[] {
    return [
      [loadWord, 0, 0, argument(0)],
      ...when(jumpIfEqual, netlink, [[loadWord, 0, 0, argument(2)], ...when(jumpIfEqual, netlinkRoute, give(allow)), ...refuse]),
      ...knownFamilies.flatMap((family) => when(jumpIfEqual, family, give(allow))),
      ...refuse,
    ];
  }
}

/** The architecture of this process, or an error where the filter has no numbers for it. */
export function seccompArchitecture(architecture: string): SeccompArchitecture {
  if (architecture === "x64" || architecture === "arm64") return architecture;
  throw new Error(`the sandbox has no system call filter for the ${architecture} architecture`);
}

function give(verdict: number): Instruction[] {
  return [[giveBack, 0, 0, verdict]];
}

// Compares the word loaded last; where the body is skipped, the program goes on after it.
function when(test: number, operand: number, body: Instruction[]): Instruction[] {
  return [[test, 0, body.length, operand], ...body];
}

function unless(test: number, operand: number, body: Instruction[]): Instruction[] {
  return [[test, body.length, 0, operand], ...body];
}

function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * 8);
  const view = new DataView(bytes.buffer);
  program.forEach(([operation, ifTrue, ifFalse, operand], index) => {
    if (ifTrue > 255 || ifFalse > 255) throw new Error("a jump of the system call filter is too long");
    view.setUint16(index * 8, operation, true);
    view.setUint8(index * 8 + 2, ifTrue);
    view.setUint8(index * 8 + 3, ifFalse);
    view.setUint32(index * 8 + 4, operand >>> 0, true);
  });
  return bytes;
}
