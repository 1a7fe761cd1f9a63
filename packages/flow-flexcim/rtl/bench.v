// Plays a file of inputs, one line a cycle, and prints the totals of every token with its cycle.
`timescale 1ns / 1ns
module bench;
    parameter S = 4, R = 4, C = 4, P = 4, W = 8, LS = 2, LR = 2, LP = 2, WA = 32, CYCLES = 1;
    localparam WORDS = S*C*(W+LP+1), SETS = R*S*P*2*W, PICK = R*S*LP, ROUTE = R*S*LS, ON = R*S;
    localparam WIDTH = 5 + LR + WORDS + SETS + 2*PICK + ROUTE + ON;
    reg clk = 0;
    reg [WIDTH-1:0] line [0:CYCLES-1];
    reg [WIDTH-1:0] now = 0;
    wire [C*WA-1:0] totals;
    wire done;
    integer cycle, c;
    macro #(.S(S), .R(R), .C(C), .P(P), .W(W), .LS(LS), .LR(LR), .LP(LP), .WA(WA)) unit (
        .clk(clk), .write(now[0]), .bank(now[1]), .valid(now[2]), .first(now[3]), .last(now[4]),
        .row(now[5 +: LR]), .words(now[5+LR +: WORDS]), .sets(now[5+LR+WORDS +: SETS]),
        .pick(now[5+LR+WORDS+SETS +: PICK]), .route(now[5+LR+WORDS+SETS+PICK +: ROUTE]),
        .presented(now[5+LR+WORDS+SETS+PICK+ROUTE +: PICK]),
        .on(now[5+LR+WORDS+SETS+2*PICK+ROUTE +: ON]), .totals(totals), .done(done));
    initial begin
        $readmemh("inputs.hex", line);
        for (cycle = 0; cycle < CYCLES + 3; cycle = cycle + 1) begin
            now = cycle < CYCLES ? line[cycle] : 0;
            #1 clk = 1;
            #1;
            if (done) begin
                $write("%0d", cycle + 1);
                for (c = 0; c < C; c = c + 1) $write(" %0d", $signed(totals[c*WA +: WA]));
                $write("\n");
            end
            clk = 0;
        end
        $finish;
    end
endmodule
