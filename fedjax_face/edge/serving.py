"""The service over gRPC: who a call is from is known before it is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from fedjax_face.edge import wire
from fedjax_face.edge.service import CALLS, Code, EdgeService, Refused, one_line
from fedjax_face.edge.transport import JOIN, OPTIONS, SERVICE, SESSION, Tls

_SPARE_THREADS = 8     # that are never held: joining and refusing wait for nothing
_REFUSED_AT_ONCE = 64  # calls that may wait for such a thread


def serve(service: EdgeService, address: str, tls: Tls | None) -> tuple[grpc.Server, int]:
  """Starts to answer devices.

  A request to join and the session of a frame are metadata, which are there when a call begins. A
  call without them ends at once, so silent strangers hold nothing. Those of a device that has
  joined are counted, and must begin and go on in time. Each holds at most one frame in memory.

  Args:
    service: what answers.
    address: HOST:PORT; port 0: any that is free.
    tls: None: plain text.

  Returns:
    The server, started, and its port.

  Raises:
    OSError: the address cannot be used, or a TLS file not be read.
  """
  threads = CALLS * service.devices + _SPARE_THREADS
  server = grpc.server(futures.ThreadPoolExecutor(threads), options=OPTIONS,
                       maximum_concurrent_rpcs=threads + _REFUSED_AT_ONCE)
  # Handlers of streams are called when a call begins, others when its first message has come.
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
      "Join": grpc.stream_unary_rpc_method_handler(_guarded(service, _join)),
      "Send": grpc.stream_stream_rpc_method_handler(
          _guarded(service, _send))}),))
  credentials = tls.server() if tls else None
  try:
    port = (server.add_secure_port(address, credentials) if credentials
            else server.add_insecure_port(address))
  except RuntimeError as error:
    raise OSError(f"address {address} cannot be used: {one_line(error)}") from error
  server.start()
  return server, port


def _join(service: EdgeService, request: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
  return service.join(_shown(context, JOIN), tuple(sorted(context.peer_identities() or ())))


def _send(service: EdgeService, pieces: Iterator[bytes],
          context: grpc.ServicerContext) -> Iterator[bytes]:
  session = _shown(context, SESSION)
  leave = service.enter(session)
  if not context.add_callback(leave):  # the call is over already
    leave()
  in_time = _in_time(pieces, service, context)
  return wire.chunks(service.send(session, in_time, context.is_active))


def _shown(context: grpc.ServicerContext, name: str) -> bytes:
  """What a call shows of itself; empty: nothing."""
  return next((bytes(value) for key, value in context.invocation_metadata() if key == name), b"")


def _in_time(pieces: Iterator[bytes], service: EdgeService,
             context: grpc.ServicerContext) -> Iterator[bytes]:
  """The pieces; the call ends if the first is late, or if they take too long together."""

  def ends_in(seconds: float) -> threading.Timer:
    def end() -> None:
      service.refuse(context.peer(), f"nothing came in {seconds:g} s")
      context.cancel()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer

  timer, is_first = ends_in(service.terms.first_byte_seconds), True
  try:
    for piece in pieces:
      if is_first:
        timer.cancel()
        timer, is_first = ends_in(service.terms.step_seconds), False
      yield piece
  finally:
    timer.cancel()


def _guarded(service: EdgeService, call: Callable[..., Any]) -> Callable[..., Any]:
  """The call with every refusal as a gRPC status of one line."""

  def handler(request, context):
    try:
      return call(service, request, context)
    except grpc.RpcError:  # the device is gone; there is nobody to tell
      raise
    except Refused as refused:
      code, line = refused.code, str(refused)
    except ValueError as error:
      code, line = Code.INVALID_ARGUMENT, one_line(error)
    service.refuse(context.peer(), line)
    return context.abort(code, line)

  return handler
