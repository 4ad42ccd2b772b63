"""The simulator: the real HTTP surface of Paystack, M-Pesa Daraja, Stripe, Flutterwave, Moniepoint (Monnify),
C-Pay and VTPass, and their webhooks, without any money.

Standard Bank Pay is a pattern with no public counterpart: what stands here is all there is of it.

    python -m payflow.simulator          http://127.0.0.1:8090/<provider>, settings PAYFLOW_SIMULATOR_…

It imports nothing else of the service, so that its own signing and status words can contradict the adapters'.

An amount whose last three digits are listed here chooses what happens (all but M-Pesa and VTPass: of the minor unit, so
NGN 19.01; M-Pesa: of whole shillings, so KES 1,901, or the phone 2547000009NN with the last two digits of the table;
VTPass: of whole naira). All others succeed. `POST /_control/outcomes` goes before the amount. The amount of a refund,
transfer or purchase chooses likewise, where the outcome makes sense for it.

901  decline                        declined; a refund fails
902  insufficient_funds             declined for lack of money
903  cancelled                      the customer cancels (M-Pesa 1032)
904  expired                        nobody acts until the session ends (M-Pesa 1037)
905  silent                         nobody acts, no webhook, queries say pending
906  no_answer                      as silent, and queries fail too
907  timeout_after_charging         the charge exists and succeeds, the call hangs
908  late_success_after_failure     fails, later succeeds
909  duplicate                      each webhook three times
910  out_of_order                   the final event first, an older one after it
911  wrong_amount                   another amount is paid
912  wrong_currency                 another currency is paid (not M-Pesa)
913  bad_signature                  webhooks signed with another key (not M-Pesa, which signs nothing)
914  slow                           the call takes slow_seconds, then is normal
915  server_error                   5xx, nothing charged
916  server_error_after_charging    5xx, yet charged
917  refuse                         a documented refusal (4xx; M-Pesa 500)
918  rate_limited                   429, nothing charged
919  html_error                     502 and an HTML page, no charge
920  callback_before_ack            the webhook arrives before the answer
921  webhook_only                   succeeds, queries fail
922  query_only                     succeeds, no webhook
923  dropped_after_charging         charged, the connection breaks in the answer
924  fee_on_top                     the customer pays the fee on top (Paystack)
925  needs_attention                the refund stops for bank details (Paystack refunds)
926  asynchronous                   first processing, later paid (not M-Pesa)
927  asynchronous_failure           first processing, later declined (not M-Pesa)
928  late_failure                   a refund or transfer succeeds, and fails or is sent back later
929  needs_otp                      a transfer waits for the merchant's code
"""

from payflow.simulator.app import create_simulator
from payflow.simulator.settings import SimulatorNotAllowed, SimulatorSettings

__all__ = ["SimulatorNotAllowed", "SimulatorSettings", "create_simulator"]
