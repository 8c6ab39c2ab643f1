import { ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { reasonName, reasonOf } from "../../../server/errors.ts";

/** `UNAUTHENTICATED expired` of a refused promise, `accepted` of one that is not; other errors are thrown on. */
export async function outcomeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "accepted";
  } catch (error) {
    const reason = reasonOf(error);
    if (!(error instanceof ConnectError) || reason === undefined) throw error;
    const problem = error.findDetails(ErrorInfoSchema)[0]?.metadata.problem;
    return problem === undefined ? reasonName(reason) : `${reasonName(reason)} ${problem}`;
  }
}
