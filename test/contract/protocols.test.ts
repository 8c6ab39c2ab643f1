import { protocolSuite } from "./protocol-suite.ts";
import { startStub } from "./protocols-stub.ts";

protocolSuite("the port over stub services", startStub);
