import type { DescService } from "@bufbuild/protobuf";
import { Code, type ConnectRouter, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Log } from "../log.ts";
import { assertAuthorized } from "./descriptors.ts";
import { createDirectStreams } from "./direct-stream.ts";
import { createHealthService, type ReadyCheck } from "./health.ts";
import type { HttpLimits } from "./limits.ts";
import { createLogInterceptor, tell } from "./log-interceptor.ts";
import { createOpenApi } from "./openapi.ts";
import { createReflectionServices } from "./reflection.ts";
import { requestInfoKey } from "./request-info.ts";
import { createRestSurface, type RestSurface } from "./rest/surface.ts";
import { createRpcGroup } from "./rpc.ts";

/** Looks at a call before its body is read; throws to refuse it. */
export type RequestGate = (context: HandlerContext) => void | Promise<void>;

/** What the surfaces are made of. */
export type SurfaceOptions = {
  services: readonly DescService[];
  routes: (router: ConnectRouter) => void;
  interceptors: Interceptor[];
  requestGate?: RequestGate | undefined;
  limits: HttpLimits;
  publicUrl?: string | undefined;
  log: Log;
  ready: ReadyCheck;
  drainSignal: AbortSignal;
  shutdownSignal: AbortSignal;
};

/** Everything that is derived from the descriptors. */
export type Surfaces = {
  /** By request path. */
  handlers: ReadonlyMap<string, UniversalHandler>;
  rest: RestSurface;
  openApi: unknown;
  /** True for paths whose request bodies are open-ended streams. */
  mayStayOpen: (path: string) => boolean;
};

/** Builds them once, at start. Throws for a method without authorization or with an http option that cannot be served. */
export function createSurfaces(options: SurfaceOptions): Surfaces {
  assertAuthorized(options.services);
  const logged = createLogInterceptor(options.log);
  const interceptors = [createDirectStreams(), logged, ...options.interceptors];
  const { limits, drainSignal, shutdownSignal } = options;
  const requestGate = options.requestGate && guarded(options.requestGate, options.log);
  const contract = createRpcGroup({ routes: options.routes, interceptors, requestGate, limits, drainSignal, shutdownSignal });
  // Open to anybody, as probes and tools expect; they tell nothing but the contract and whether the server is ready.
  const open = createRpcGroup({
    routes: openRoutes(options),
    interceptors: [logged],
    requestGate: undefined,
    limits,
    drainSignal,
    shutdownSignal,
  });
  const handlers = new Map([...contract.handlers, ...open.handlers].map((handler) => [handler.requestPath, handler]));
  return {
    handlers,
    rest: createRestSurface({ methods: contract.methods, interceptors, requestGate, limits, shutdownSignal }),
    openApi: createOpenApi(options.services, options.publicUrl),
    mayStayOpen: (path) => {
      const kind = handlers.get(path)?.method.methodKind;
      return kind === "client_streaming" || kind === "bidi_streaming";
    },
  };
}

function openRoutes({ services, ready }: SurfaceOptions): (router: ConnectRouter) => void {
  const reflected = [...services, Health, ServerReflection, ServerReflectionAlpha];
  const reflection = createReflectionServices(reflected);
  return (router) => {
    router.service(
      Health,
      createHealthService(
        ready,
        services.map((service) => service.typeName),
      ),
    );
    router.service(ServerReflection, reflection.v1);
    router.service(ServerReflectionAlpha, reflection.v1alpha);
  };
}

// No interceptor sees what the gate throws, so it is logged and made harmless here.
function guarded(gate: RequestGate, log: Log): RequestGate {
  return async (context) => {
    try {
      await gate(context);
    } catch (error) {
      const info = context.values.get(requestInfoKey);
      if (info) info.refusedByGate = true;
      const told = tell(error, context.signal);
      if (told.code === Code.Internal) log.error({ request_id: info?.requestId, err: error }, "request gate failed");
      throw told;
    }
  };
}
