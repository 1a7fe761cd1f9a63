// A FlexCiM macro: S sub-macros of R rows and C columns behind a distribution unit, before a merging
// unit. Signed arithmetic, one pass a cycle, weights written a row a cycle into the idle bank.
// The Python model is flow_flexcim/flexcim/functional.py; the tests compare them.

// One row: each selector picks one of P pairs of its own input set, each sub-macro takes the pair of
// any selector.
module distribution #(
    parameter S = 4, P = 4, W = 8, LS = 2, LP = 2
) (
    input  [S*P*2*W-1:0] sets,
    input  [S*LP-1:0]    pick,
    input  [S*LS-1:0]    route,
    output [S*2*W-1:0]   lines
);
    wire [S*2*W-1:0] picked;
    genvar s;
    generate
        for (s = 0; s < S; s = s + 1) begin : selector
            wire [P*2*W-1:0] set = sets[s*P*2*W +: P*2*W];
            assign picked[s*2*W +: 2*W] = set[pick[s*LP +: LP]*2*W +: 2*W];
            assign lines[s*2*W +: 2*W] = picked[route[s*LS +: LS]*2*W +: 2*W];
        end
    endgenerate
endmodule

// One column of one sub-macro: R cells of a weight, the bit that picks an element of the pair, and
// the pair that the weight needs. A cell fires when its row presents that pair.
module column #(
    parameter R = 4, W = 8, LP = 2, LR = 2
) (
    input                       clk, write, into, bank,
    input  [LR-1:0]             row,
    input  [W+LP:0]             word,      // {weight, element, pair}
    input  [R*2*W-1:0]          lines,
    input  [R*LP-1:0]           presented,
    input  [R-1:0]              on,
    output reg signed [2*W+LR-1:0] sum
);
    reg [W+LP:0] cells [0:2*R-1];
    wire signed [2*W+LR-1:0] partial [0:R];
    assign partial[0] = 0;
    genvar r;
    generate
        for (r = 0; r < R; r = r + 1) begin : a_cell
            localparam [LR-1:0] INDEX = r;
            wire [W+LP:0] stored = cells[{bank, INDEX}];
            wire signed [W-1:0] weight = stored[LP+1 +: W];
            wire signed [W-1:0] x = stored[LP] ? lines[r*2*W+W +: W] : lines[r*2*W +: W];
            wire fires = on[r] && stored[0 +: LP] == presented[r*LP +: LP];
            wire signed [2*W-1:0] product = weight * x;
            assign partial[r+1] = partial[r] + (fires ? product : 0);
        end
    endgenerate
    always @(posedge clk) begin
        if (write) cells[{into, row}] <= word;
        sum <= partial[R];
    end
endmodule

// The sub-macros' sums of one column, added up over the passes of a token.
module merging #(
    parameter S = 4, WS = 18, WA = 32
) (
    input                      clk, valid, first,
    input  [S*WS-1:0]          sums,
    output reg signed [WA-1:0] total
);
    wire signed [WA-1:0] partial [0:S];
    assign partial[0] = 0;
    genvar s;
    generate
        for (s = 0; s < S; s = s + 1) begin : sub_macro
            wire signed [WS-1:0] one = sums[s*WS +: WS];
            assign partial[s+1] = partial[s] + one;
        end
    endgenerate
    always @(posedge clk)
        if (valid) total <= (first ? 0 : total) + partial[S];
endmodule

// Three cycles from a pass to its total: the distributed lines, the columns' sums, the merged total
// are registers.
module macro #(
    parameter S = 4, R = 4, C = 4, P = 4, W = 8, LS = 2, LR = 2, LP = 2, WA = 32
) (
    input                       clk, write, bank, valid, first, last,
    input  [LR-1:0]             row,
    input  [S*C*(W+LP+1)-1:0]   words,
    input  [R*S*P*2*W-1:0]      sets,
    input  [R*S*LP-1:0]         pick,      // by selector
    input  [R*S*LS-1:0]         route,     // by sub-macro
    input  [R*S*LP-1:0]         presented, // by sub-macro: the pair its row now has
    input  [R*S-1:0]            on,
    output [C*WA-1:0]           totals,
    output reg                  done
);
    localparam WS = 2*W + LR;
    reg  [R*S*2*W-1:0] lines;
    reg  [R*S*LP-1:0]  presented_q;
    reg  [R*S-1:0]     on_q;
    reg                bank_q;
    reg  [1:0]         valid_q, first_q, last_q;
    wire [R*S*2*W-1:0] distributed;
    wire [C*S*WS-1:0]  sums;
    genvar r, s, c;
    generate
        for (r = 0; r < R; r = r + 1) begin : a_row
            distribution #(.S(S), .P(P), .W(W), .LS(LS), .LP(LP)) unit (
                .sets(sets[r*S*P*2*W +: S*P*2*W]), .pick(pick[r*S*LP +: S*LP]),
                .route(route[r*S*LS +: S*LS]), .lines(distributed[r*S*2*W +: S*2*W]));
        end
        for (s = 0; s < S; s = s + 1) begin : sub_macro
            wire [R*2*W-1:0] mine;
            wire [R*LP-1:0]  pairs;
            wire [R-1:0]     rows_on;
            for (r = 0; r < R; r = r + 1) begin : gather
                assign mine[r*2*W +: 2*W] = lines[(r*S+s)*2*W +: 2*W];
                assign pairs[r*LP +: LP] = presented_q[(r*S+s)*LP +: LP];
                assign rows_on[r] = on_q[r*S+s];
            end
            for (c = 0; c < C; c = c + 1) begin : a_column
                column #(.R(R), .W(W), .LP(LP), .LR(LR)) unit (
                    .clk(clk), .write(write), .into(~bank), .bank(bank_q), .row(row),
                    .word(words[(s*C+c)*(W+LP+1) +: W+LP+1]),
                    .lines(mine), .presented(pairs), .on(rows_on),
                    .sum(sums[(c*S+s)*WS +: WS]));
            end
        end
        for (c = 0; c < C; c = c + 1) begin : merge
            merging #(.S(S), .WS(WS), .WA(WA)) unit (
                .clk(clk), .valid(valid_q[1]), .first(first_q[1]),
                .sums(sums[c*S*WS +: S*WS]), .total(totals[c*WA +: WA]));
        end
    endgenerate
    always @(posedge clk) begin
        lines <= distributed;
        presented_q <= presented;
        bank_q <= bank;
        on_q <= valid ? on : 0;
        valid_q <= {valid_q[0], valid};
        first_q <= {first_q[0], first};
        last_q <= {last_q[0], last};
        done <= valid_q[1] && last_q[1];
    end
    initial begin valid_q = 0; done = 0; end
endmodule
