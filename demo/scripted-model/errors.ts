/** A refusal in the provider's own words: it becomes the HTTP status and the error body. */
export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly headers: Record<string, string>;

  constructor(status: number, type: string, message: string, headers: Record<string, string> = {}) {
    super(message);
    this.status = status;
    this.type = type;
    this.headers = headers;
  }
}

/** The most common refusal: HTTP 400 with `invalid_request_error`. */
export function invalid(message: string): ApiError {
  return new ApiError(400, "invalid_request_error", message);
}

export function errorBody(type: string, message: string, requestId: string) {
  return { type: "error", error: { type, message }, request_id: requestId };
}

const typeByStatus: Record<number, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  405: "invalid_request_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
  504: "timeout_error",
  529: "overloaded_error",
};

const messageByType: Record<string, string> = {
  invalid_request_error: "Scripted refusal of this request",
  authentication_error: "invalid x-api-key",
  billing_error: "Your credit balance is too low to access the API",
  permission_error: "Your API key does not have permission to use the specified resource",
  not_found_error: "Not Found",
  request_too_large: "Request exceeds the maximum size",
  rate_limit_error: "This request would exceed your account's rate limit. Please try again later.",
  api_error: "Internal server error",
  timeout_error: "Request timed out",
  overloaded_error: "Overloaded",
};

/** The provider's error type for a status; unknown statuses count as `api_error`. */
export function errorTypeOf(status: number): string {
  return typeByStatus[status] ?? "api_error";
}

/** What the provider says with an error type when the script does not say it. */
export function errorMessageOf(type: string): string {
  return messageByType[type] ?? type;
}

/** The HTTP status that goes with an error type, for errors that happen before a stream began. */
export function statusOf(type: string): number {
  const found = Object.entries(typeByStatus).find(([, known]) => known === type);
  return found ? Number(found[0]) : 500;
}
