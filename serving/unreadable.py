"""Messages that cannot be read, or are of too many parts: the caller's mistake, where gRPC would answer INTERNAL."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from grpc import RpcMethodHandler, StatusCode
from grpc.aio import ServerInterceptor, ServicerContext

from serving.errors import InvalidRequest, ServiceError
from serving.stubs import method_path
from serving.wire import check_fields


class RefuseUnreadable(ServerInterceptor):  # type: ignore[misc]
    """Answers such a message with a ServiceError's code; ModelInfer, which counts its errors, is given it instead.

    So is a method that answers one message with many, through ReceiveInTurn, which has errors of its own for it.
    """

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method's handler, told of messages that it cannot read."""
        handler = await continuation(details)
        if handler is None:
            return None
        if details.method == method_path("ModelInfer"):
            return handler._replace(request_deserializer=_lenient(handler, check_fields))
        handler = handler._replace(request_deserializer=_lenient(handler, None))
        if handler.unary_unary:
            return handler._replace(unary_unary=_refusing(handler.unary_unary))
        return handler._replace(stream_stream=_raising(handler.stream_stream)) if handler.stream_stream else handler


def _lenient(handler: RpcMethodHandler, check: Callable[[bytes], None] | None) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        """The message, or the error in its place."""
        try:
            if check:
                check(data)
            return handler.request_deserializer(data)
        except DecodeError:
            return InvalidRequest("the message is not valid protobuf")
        except ServiceError as error:
            return error.without_frames()

    return decode


def _refusing(answer: Callable[[Any, ServicerContext], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def refuse_or_answer(message: Any, context: ServicerContext) -> Any:
        if isinstance(message, ServiceError):
            return await context.abort(StatusCode[message.code], message.sentence)
        return await answer(message, context)

    return refuse_or_answer


def _raising(answer: Callable[[Any, ServicerContext], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def read(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in messages:
            if isinstance(message, ServiceError):
                raise message
            yield message

    return lambda messages, context: answer(read(messages), context)
